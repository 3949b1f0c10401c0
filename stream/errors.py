"""What every refusal has in common.

Refusal
├── SettingsError   a setting is missing or wrong
├── TopicError      a topic is missing, or kept in a way the scorer can't live with
├── BrokerError     the embedded broker could not do what was asked
├── ImportRefused   a pipeline can't become a model here
├── ArchiveError    the archive can't be written or read, or is not whole
├── PublishError    the orders could not all be sent
├── SourceError     a file of rows can't be read
├── MappingFileError  a mapping can't be used
├── OwnFeaturesError  a shop's own features can't be used
├── ReplayError     the past can't be replayed as asked
├── Refused         a worker, or a repair, must not go on
├── VerifyError     decisions can't be decided again
├── Unreachable     the cluster did not answer in time
├── NotStable       an open transaction covers what was asked for
└── DemoError       the demo can't go on
"""

__all__ = ["Refusal"]


class Refusal(Exception):
    """The program can't do what was asked, and its message says why and what to do: no mistake of ours.

    The command line tells it in one line; any other exception keeps its traceback.
    """
