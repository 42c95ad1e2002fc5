"""What `typing` lacks on the oldest Python."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if sys.version_info >= (3, 11):
    from typing import Unpack
elif TYPE_CHECKING:
    from typing_extensions import Unpack
else:

    class Unpack:
        """Stands in where typing has none; annotations are all that it is used in."""

        def __class_getitem__(cls, fields):
            return fields


__all__ = ["Unpack"]
