"""The one exception that commands turn into a single line and exit code 2."""


class UserError(ValueError):
    """A mistake that the user can put right, told in one line that says how."""
