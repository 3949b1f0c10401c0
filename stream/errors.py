"""What every refusal has in common.

Refusal
├── SettingsError   a setting is missing or wrong
├── TopicError      a topic is missing, or kept in a way the scorer can't live with
├── BrokerError     the embedded broker could not do what was asked
└── DemoError       the demo can't go on
"""

__all__ = ["Refusal"]


class Refusal(Exception):
    """The program can't do what was asked, and its message says why and what to do: no mistake of ours.

    The command line tells it in one line; any other exception keeps its traceback.
    """
