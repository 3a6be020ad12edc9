"""Every error that securefd raises on purpose.

::

    SecurefdError                 the command line ends with exit code 2 and this one sentence
    ├── ConfigError               a key, its value, the rule and the remedy
    ├── DataError                 records that can't be read, split or trusted
    ├── ModelError                a model or factory that can't do what the run asks of it
    ├── PrivacyError              a guarantee that can't be given
    │   ├── BudgetExceeded        the next access would overspend; refused before noise is drawn
    │   └── LedgerError           a ledger with a gap, a wrong hash or a foreign line
    ├── ProtocolError             a message or step that the protocol forbids; no state was changed
    │   ├── MessageError          bytes that aren't the message they should be
    │   └── SealingError          a value, bound or key that sealing can't accept
    ├── RunError                  a run folder that can't be used
    │   ├── RunLocked             another process works on it
    │   └── RunMismatch           it holds a run of another configuration or version
    ├── AuditError                scores, shadows or views from which nothing can be concluded
    └── ReportError               a report that can't be written or read
"""


class SecurefdError(Exception):
    """An expected failure: the message is one sentence that names the value, the rule and the remedy."""


class ConfigError(SecurefdError):
    """A configuration that can't be run."""


class DataError(SecurefdError):
    """Records that can't be read, split or trusted."""


class ModelError(SecurefdError):
    """A model or factory that can't do what the run asks of it."""


class PrivacyError(SecurefdError):
    """A guarantee that can't be given."""


class BudgetExceeded(PrivacyError):
    """The next private access would exceed the budget; refused before any noise was drawn."""


class LedgerError(PrivacyError):
    """A ledger with a gap, a wrong hash or a line that isn't its own."""


class ProtocolError(SecurefdError):
    """A message or step that the protocol forbids; no state was changed."""


class MessageError(ProtocolError):
    """Bytes that aren't the message they should be."""


class SealingError(ProtocolError):
    """A value, bound or key that sealing can't accept."""


class RunError(SecurefdError):
    """A run folder that can't be used."""


class RunLocked(RunError):
    """Another process works on this run folder."""


class RunMismatch(RunError):
    """The run folder holds a run of another configuration or version."""


class AuditError(SecurefdError):
    """Scores, shadows or views from which nothing can be concluded."""


class ReportError(SecurefdError):
    """A report that can't be written or read."""
