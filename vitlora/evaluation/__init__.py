"""What a trained network is worth: its answers, its confidence, its reports."""
