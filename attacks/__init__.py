"""What tests the protection: attacks that see one observer's view and nothing else."""

if __name__ != "securefd.attacks":
    raise ImportError(f"import securefd.attacks, not {__name__}")
