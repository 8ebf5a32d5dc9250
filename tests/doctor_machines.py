"""Machines that are made up for the tests of the doctor."""


def tree(root, files):
    """Writes files under a root: name to text."""
    for name, text in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def lines(check, machine):
    return [str(finding) for finding in check(machine)]
