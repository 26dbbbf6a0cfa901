"""Order approval: small orders are approved at once, large ones by a human who may be too late."""
