"""Small models that say what is worth learning from: their training sets, training, evaluation, cards and scores."""
