"""From a folder of pictures to batches. Import its modules one by one: predicting needs few."""
