"""From one observer's views to its evidence, or why it has none."""

from __future__ import annotations

from collections.abc import Sequence

from securefd.attacks.candidates import Candidates, Evidence, NoEvidence
from securefd.attacks.observe import observe
from securefd.errors import AuditError
from securefd.evaluation.findings import Skipped, Subject
from securefd.views import View


def gather(views: Sequence[View], about: Candidates, *, subject: Subject) -> tuple[Evidence | Skipped, ...]:
    """All evidence of one observer about candidates.

    ``views``: its views of F federations that were asked the same queries; one view for ``this run``.

    Raises:
        AuditError: no view at all. Every other failure is an outcome.
    """
    if not len(views):
        raise AuditError("an observer needs at least one view, got none")
    observer = views[0].observer
    try:
        found = observe(views, about)
    except AuditError as error:
        return (Skipped(subject=subject, observer=observer, attack="all", reason=str(error)),)
    if isinstance(found, NoEvidence):
        return (Skipped(subject=subject, observer=observer, attack="all", reason=found.reason),)
    return found
