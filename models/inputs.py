"""Where each input lies in the front end's result x_BI."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# In brackets, which no feature name has.
DENSE_PART = "(dense)"


@dataclass(frozen=True)
class Inputs:
    """The width of each part of x_BI by its name, in order: one per sparse feature, then `DENSE_PART`, if there is one.

    A body with tables of its own per task gets x_BGI instead: `num_groups` such inputs side by side.
    """

    widths: Mapping[str, int]
    num_groups: int = 1

    @property
    def width(self) -> int:
        """I, the width of one input."""
        return sum(self.widths.values())

    def columns(self, names: Iterable[str]) -> list[int]:
        """The columns of the named parts, in the order of the names.

        Raises:
            ValueError: a name is not one of the parts.
        """
        first, places = 0, {}
        for name, width in self.widths.items():
            places[name] = range(first, first + width)
            first += width
        chosen = list(names)
        for name in chosen:
            if name not in places:
                raise ValueError(f"{name!r} is not an input; the inputs are {', '.join(places)}")
        return [column for name in chosen for column in places[name]]
