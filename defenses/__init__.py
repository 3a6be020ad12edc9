"""What protects answers: noise, accounting, masks, encryption, robust combination."""

if __name__ != "securefd.defenses":
    raise ImportError(f"import securefd.defenses, not {__name__}")
