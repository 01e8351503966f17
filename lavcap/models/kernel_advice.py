"""What bitsandbytes says of 4-bit kernels when it is imported, kept from those who asked for nothing in 4 bits.

PEFT imports it wherever it is installed, and on some processors that ends in a warning that a kernel is missing.
"""

import logging


class KernelAdvice(logging.Filter):
    """Holds the records of a logger back until somebody is concerned by them."""

    def __init__(self, logger: str = "bitsandbytes.backends.cpu.ops"):
        super().__init__()
        self.logger, self.records = logging.getLogger(logger), []

    def filter(self, record: logging.LogRecord) -> bool:
        self.records.append(record)
        return False

    def hold(self):
        """From here on nothing is shown."""
        self.logger.addFilter(self)

    def release(self):
        """Show what was held back, and whatever comes."""
        self.logger.removeFilter(self)
        while self.records:
            self.logger.handle(self.records.pop(0))


KERNEL_ADVICE = KernelAdvice()
