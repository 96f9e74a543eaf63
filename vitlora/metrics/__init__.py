"""What logits, labels and features tell: scores, intervals, confidence, and the final answers."""
