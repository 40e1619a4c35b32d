"""The command line: parse, call one function, render. What a command needs is imported when it runs."""


def main() -> None:
    """Entry point of the process; an interrupt while the command line is loaded ends it as one later does."""
    try:
        from geofilter.cli.process import run

        run()
    except SystemExit:
        raise
    except BaseException as error:
        from geofilter.errors import interrupted

        if interrupted(error):
            raise SystemExit(130) from None
        raise
