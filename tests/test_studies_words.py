"""What a check came to, as a reader sees it."""

from typing import Any

import pytest

from regrun.findings import StudyCheckRow
from regrun.studies.words import claimed, measured


def check(**own: Any) -> StudyCheckRow:
    row: dict[str, Any] = {
        **{"study": "s", "says": "", "statistic": "mean", "figure": "test_loss", "arms": ["a"], "n": 10},
        **{"mean": 0.0, "low": None, "high": None, "boot_low": None, "boot_high": None, "d_z": None},
        **{"above": None, "below": None, "result": "shown"},
    }
    return StudyCheckRow(**row | own)


@pytest.mark.parametrize(
    ("row", "says", "claims"),
    [
        (
            {
                "statistic": "share",
                "figure": "test_error < 0.3",
                "mean": 0.9,
                "low": 0.5958,
                "high": 0.9821,
                "above": 0.5,
            },
            "9 of 10 seeds, 90.00 % [59.58, 98.21]",
            "above 50.00 %",
        ),
        (
            {
                "statistic": "difference",
                "figure": "test_error",
                "mean": -0.012,
                "low": -0.017,
                "high": -0.007,
                "below": 0.0,
            },
            "-1.20 points [-1.70, -0.70]",
            "below 0.00 points",
        ),
        ({"statistic": "each", "figure": "off", "mean": 0.34, "low": 0.29, "high": 0.4}, "0.34 (0.29 to 0.40)", ""),
        ({"statistic": "each", "figure": "off", "mean": 10.0, "low": 10.0, "high": 10.0}, "10.00 of every seed", ""),
        (
            {"mean": 1.0, "low": 0.99999, "high": 1.0, "above": 0.99998, "below": 1.00002, "statistic": "each"},
            "1.00000 (0.99999 to 1.00000)",
            "between 0.99998 and 1.00002",
        ),
        ({"mean": 0.5}, "0.50", ""),
        ({"figure": "chosen_optimism_gap", "mean": 0.0173}, "1.73 points", ""),
        ({"figure": "slope_of_test_error", "mean": 0.04}, "4.00 points", ""),
        ({"figure": "test_error", "mean": 0.04}, "4.00 %", ""),
    ],
)
def test_a_check_in_words(row: dict[str, Any], says: str, claims: str) -> None:
    assert (measured(check(**row)), claimed(check(**row))) == (says, claims)
