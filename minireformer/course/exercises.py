"""Checks for the exercises of the course: they say what is wrong without giving the answer away."""


def check(exercise, test):
    """Run `test()`, which asserts what a solution must do, and print how it went.

    A stub that raises NotImplementedError counts as not solved yet, so a notebook runs to its end before you have
    solved anything. If you write a test, write the messages of its asserts for a learner: what you expected, what you
    got, and where to look.
    """
    try:
        test()
    except NotImplementedError:
        print(f"{exercise}: not solved yet")
    except AssertionError as error:
        print(f"{exercise}: not right yet. {error}")
    except Exception as error:
        print(f"{exercise}: your code stopped with {type(error).__name__}: {error}")
    else:
        print(f"{exercise}: right")
