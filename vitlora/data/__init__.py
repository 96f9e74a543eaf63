"""From a folder of pictures to batches. Modules are imported one by one, to keep predicting light."""
