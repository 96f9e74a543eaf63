"""What logits, labels and features say: scores, intervals, confidence, and one judge of answers."""
