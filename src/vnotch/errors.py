"""Exceptions, split by who is at fault.

    VnotchError                 everything that vnotch raises on purpose
    |- InputError               the caller's mistake: a file, an argument, a format; names the place and what is right
    |- HostError                this machine lacks or refuses something; carries the remedy as a command or a sentence
    |  `- KernelError           a bpf(2), netlink or setns call failed; carries the errno
    |- LimitError               one of our own bounds was reached
    `- DeliveryError            a destination did not take a batch
       |- AccessError           it refused us: permission, trust or credentials (status `Access error`)
       |- RateLimitedError      it told us to slow down (status `Rate limited`)
       `- DestinationUnavailable  it could not be reached or broke (status `Unknown error`)

Errors of the AWS API, which have AWS's own codes, are `vnotch.api.service.ApiError`. Assertions are for our own
mistakes only. The command line prints a VnotchError as one line with its remedy and never as a traceback.
"""


class VnotchError(Exception):
    """Base of all errors that vnotch raises on purpose.

    `remedy`, where there is one, is a sentence or a command that puts it right.
    """

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


class InputError(VnotchError):
    """The caller gave something that is not right; nothing was changed."""


class HostError(VnotchError):
    """This machine lacks a privilege, a library, a tool, a kernel feature or room."""


class KernelError(HostError):
    """A system call of the capture failed.

    `errno` is the kernel's number, `operation` what was tried, for instance `BPF_LINK_CREATE on vn-web`.
    """

    def __init__(self, operation: str, errno: int, remedy: str | None = None) -> None:
        from os import strerror

        super().__init__(f"{operation}: {strerror(errno)}", remedy)
        self.operation = operation
        self.errno = errno


class LimitError(VnotchError):
    """One of vnotch's own bounds was reached; what it turned away has been counted."""


class DeliveryError(VnotchError):
    """A destination did not take a batch; the batch stays in the spool.

    `status` is the text that AWS shows as DeliverLogsErrorMessage (reference: API DescribeFlowLogs).
    """

    status = "Unknown error"


class AccessError(DeliveryError):
    """The destination or STS refused the role: permission, trust or credentials."""

    status = "Access error"


class RateLimitedError(DeliveryError):
    """The destination throttled us."""

    status = "Rate limited"


class DestinationUnavailable(DeliveryError):
    """The destination could not be reached or answered with a server error."""
