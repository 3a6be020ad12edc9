"""What judges: measures, shadow federations, audits, reports."""

if __name__ != "securefd.evaluation":
    raise ImportError(f"import securefd.evaluation, not {__name__}")
