"""Turn-taking as the field measures it: data sets, rules, published figures, a picture. Used by `programs/evaluate`."""
