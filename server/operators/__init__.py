"""Who may use the API: operators with tokens of ours or of an OpenID provider, and which role each route wants."""
