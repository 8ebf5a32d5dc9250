"""What the authors say of a model: its paper, its licence, where it will lie."""

import re
import unicodedata
from dataclasses import dataclass

from score_jax.types import UserError, lookup

# Identifiers of the Hugging Face Hub, and the text of each licence.
LICENSES = {
    "mit": "https://opensource.org/license/mit",
    "apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "bsd-3-clause": "https://opensource.org/license/bsd-3-clause",
    "cc0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "cc-by-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "cc-by-sa-4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "cc-by-nc-4.0": "https://creativecommons.org/licenses/by-nc/4.0/",
    "cc-by-nc-sa-4.0": "https://creativecommons.org/licenses/by-nc-sa/4.0/",
}
ARTICLES = {"a", "an", "the"}


@dataclass(frozen=True, kw_only=True)
class Paper:
    """A paper as RobustBench writes it.

    Attributes:
      link: its address; title; authors: 'Ada Lovelace, Alan Turing'; venue: ends with a year.
      year: of the identifier.
      license: an entry of LICENSES.
      hub: 'user/repo' of the Hugging Face Hub, '' where there is none.
    """

    link: str
    title: str
    authors: str
    venue: str
    year: int
    license: str
    hub: str

    @property
    def identifier(self) -> str:
        """<FirstAuthor'sLastName><Year><FirstWordOfTitle>, as in Pang2022Robustness."""
        surname = _letters(self.authors.partition(",")[0].split()[-1], keep="-")
        words = self.title.split()
        if len(words) > 1 and words[0].lower() in ARTICLES:
            words = words[1:]
        # 'Helper-based' is Helper; 'LAS-AT:' is a name of its own.
        word = words[0] if words[0].isupper() else words[0].partition("-")[0]
        word = _letters(re.split(r"['’]", word)[0], keep="-")
        if not surname or not word:
            raise UserError(
                f"authors={self.authors!r} and title={self.title!r} give no identifier such as "
                "Pang2022Robustness; write them in Latin letters."
            )
        return f"{surname}{self.year}{word[0].upper()}{word[1:]}"

    @property
    def page(self) -> str:
        """The address of the model on the Hub, '' without one."""
        return f"https://huggingface.co/{self.hub}" if self.hub else ""


def _letters(text: str, keep: str) -> str:
    """The ASCII letters and digits of a word, accents removed."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(rf"[^A-Za-z0-9{keep}]", "", plain).strip("-")


def describe(
    *,
    link: str,
    title: str,
    authors: str,
    venue: str,
    year: str = "",
    license: str = "mit",
    hub: str = "",
) -> Paper:
    """A checked `Paper`.

    Args:
      year: '' takes the one of the venue; a venue without one gets it.

    Raises:
      UserError: a value of another form, or no year at all.
    """
    link, title, authors, venue = (" ".join(text.split()) for text in (link, title, authors, venue))
    if not re.fullmatch(r"https?://[^\s/]+\.\S+", link):
        raise UserError(f"paper={link!r} is not an address; write https://arxiv.org/abs/2202.10103")
    if re.search(r"[;&]|\band\b", authors) or not all(name.strip() for name in authors.split(",")):
        raise UserError(f"authors={authors!r}: separate the names by commas, as in 'A B, C D'.")
    if hub and not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", hub):
        raise UserError(f"hub={hub!r} is not a repository of the Hub; write user/repo.")
    lookup(LICENSES, "license", license)
    found = re.findall(r"\b(?:19|20)\d\d\b", venue)
    if year and not re.fullmatch(r"(?:19|20)\d\d", year):
        raise UserError(f"year={year!r} is not a year such as 2026.")
    if not year and not found:
        raise UserError(f"venue={venue!r} has no year; write 'arXiv, Nov 2026', or give --year.")
    return Paper(
        link=link,
        title=title,
        authors=", ".join(name.strip() for name in authors.split(",")),
        venue=venue if found else f"{venue} {year}",
        year=int(year or found[-1]),
        license=license,
        hub=hub,
    )
