"""The data dictionary in outputs/README.md says what the code writes."""

from pathlib import Path

from regrun import dictionary, rows, settings

PAGE = Path(__file__).parents[1] / "outputs" / "README.md"


def test_the_page_is_what_the_code_prints() -> None:
    assert PAGE.read_text(encoding="utf-8") == dictionary.text()


def test_every_column_is_described() -> None:
    page = dictionary.text()
    columns = [name for row in (*rows.TABLES.values(), rows.Outcome, rows.Provenance) for name in rows.columns(row)]
    columns += [f"acted.{name}" for name in rows.ACTED] + settings.columns()
    assert [name for name in columns if f"| `{name}` | " not in page and name != "acted"] == []
