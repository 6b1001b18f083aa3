"""What tests of garbled input demand of a parser or a search."""


def answered_or_refused(call):
    """The answer, or None after a ValueError of one line; any other exception fails the test."""
    try:
        return call()
    except ValueError as error:
        complaint = error
    assert type(complaint) is ValueError
    assert str(complaint)
    assert "\n" not in str(complaint)
    return None
