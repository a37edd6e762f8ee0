"""Stage two: a store becomes a trained model, scores and predictions."""
