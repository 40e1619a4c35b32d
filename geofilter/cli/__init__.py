"""The command line: parse, call one function, render. What a command needs is imported when it runs."""


def main() -> None:
    """Entry point of the process; an interrupt while the command line is loaded ends it as one later does."""
    try:
        from geofilter.cli.process import run

        run()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
