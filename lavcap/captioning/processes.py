"""The processes that share out clips, started by `accelerate launch`."""

import os
from datetime import timedelta


PATIENCE = timedelta(days=7)  # clips of one process may take that much longer than those of another


class Processes:
    """This process among those that were started together; it may be the only one.

    Args:
        device: that the user asked for.

    Attributes:
        index, count: which one of how many.
        device: to run on, one for each; `None`: any.
    """

    def __init__(self, device: str | None):
        self.index, self.count, self.device, self._state = 0, int(os.environ.get("WORLD_SIZE", 1)), device, None
        if self.count > 1:
            from accelerate import PartialState

            self._state = PartialState(cpu=device == "cpu", timeout=PATIENCE)
            self.index, self.device = self._state.process_index, str(self._state.device)

    @property
    def is_main(self) -> bool:
        return self.index == 0

    def wait(self):
        """Until all are here."""
        if self._state is not None:
            self._state.wait_for_everyone()
