"""Files of the Hugging Face Hub: hf://org/repo[@revision][/file], through huggingface_hub.

That library keeps the cache, resumes what was cut off, and knows HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE and the user's
token. A file is used only if its bytes are those that the hub announced.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import urllib.parse
from dataclasses import dataclass

from kzoo.errors import UsageError, UserError, require, unknown

SCHEME = "hf://"
# A revision with a slash is one of the hub's own refs; another is written with %2F.
_URI = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>refs/(pr|convert)/[^/@]+|[^/@]+))?(/(?P<file>[^@]+))?")
# What a repository is searched for where no file was named, the best first; then a single file that ends in one of
# SUFFIXES.
PREFERRED = (
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
SUFFIXES = (".weights.h5", ".keras", ".npz")
INDEX = (".safetensors.index.json", ".bin.index.json")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Address:
    """What a hub address names; revision and file are None where it names none. Raises UsageError for names that lead
    elsewhere.
    """

    repo: str
    revision: str | None = None
    file: str | None = None

    def __post_init__(self):
        for what, name in (("repository", self.repo), ("revision", self.revision), ("file", self.file)):
            parts = (name or "x").split("/")
            if "\\" in (name or "") or not all(
                part.isprintable() and part not in ("", ".", "..") and part[0] != "-" for part in parts
            ):
                raise UsageError(
                    f"{name!r} is no {what} of the hub; addresses are written hf://org/repo[@revision][/file]."
                )

    def __str__(self):
        revision = f"@{urllib.parse.quote(self.revision, safe='')}" if self.revision else ""
        return f"{SCHEME}{self.repo}{revision}{f'/{self.file}' if self.file else ''}"


@dataclass(frozen=True)
class Resolved:
    """A file of the hub on this machine: its path in the cache and its address with the commit,
    hf://org/repo@COMMIT/file.

    What belongs to the file, the shards of an index and config.json, lies beside it.
    """

    path: pathlib.Path
    source: str

    @property
    def revision(self):
        """The commit."""
        return parse(self.source).revision


def parse(uri):
    """The Address of hf://org/repo[@revision][/file]. Raises UsageError for anything else."""
    found = _URI.fullmatch(uri)
    if not found:
        raise UsageError(f"{uri!r} is no address of the hub; it is written hf://org/repo[@revision][/file].")
    revision = found["revision"] and urllib.parse.unquote(found["revision"])
    return Address(found["repo"], revision, found["file"])


def resolve(uri):
    """The Resolved file of a hub address, fetched where it is not in the cache.

    Without a file in the address the repository's weights are looked for (PREFERRED, SUFFIXES). Raises MissingPackage
    without huggingface_hub, and UserError for what does not exist, may not be read or cannot be reached, or whose bytes
    are not the hub's.
    """
    address = parse(uri)
    require("huggingface_hub", why=f"fetching {uri}")
    repository = _Repository(address)
    file = repository.choose()
    path = repository.fetch(file)
    commit = path.parents[file.count("/")].name  # snapshots/COMMIT/FILE
    beside = _config_beside(file, repository.files)
    if file.endswith(INDEX):
        beside += _shards(path, file, repository)
    for name in beside:
        repository.fetch(name, commit)
    return Resolved(path, str(Address(address.repo, commit, file)))


class _Repository:
    """A repository at the revision of an address, as the hub lists it or, where it cannot be reached, as the cache
    holds it.
    """

    def __init__(self, address):
        self.address = address
        with _told(address):
            self.files, self.online = _listing(address)

    def choose(self):
        """The name of the address' file, or of the repository's weights. Raises UserError where there is none, or no
        single one.
        """
        wanted = self.address.file
        if wanted:
            if wanted not in self.files and self.online:
                raise unknown(f"file of {SCHEME}{self.address.repo}", wanted, self.files)
            return wanted
        for name in PREFERRED:
            if name in self.files:
                return name
        found = [name for name in self.files if name.endswith(SUFFIXES)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(
                f"{self.address} holds several weights, {', '.join(found)}; name one of them: "
                f"{self.address}/{found[0]}."
            )
        raise UserError(
            f"{self.address} holds no weights by a name that kzoo knows; name its file, {self.address}/FILE."
        )

    def fetch(self, file, revision=None):
        """The path of a file in the cache, its bytes checked."""
        from huggingface_hub import hf_hub_download

        address = Address(self.address.repo, revision or self.address.revision, file)
        with _told(address):
            path = hf_hub_download(address.repo, file, revision=address.revision, local_files_only=not self.online)
        path = pathlib.Path(path)
        _verify(path, address)
        return path


def _listing(address):
    """(names of the files, True) as the hub lists them, or (those in the cache, False) where the hub cannot be
    reached.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        listed = HfApi().model_info(address.repo, revision=address.revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        return sorted(sibling.rfilename for sibling in listed.siblings or ()), True
    except (OfflineModeIsEnabled, HTTPError) as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
            raise
        try:
            # No patterns: a snapshot that holds a part of the repository's files will do.
            folder = pathlib.Path(
                snapshot_download(address.repo, revision=address.revision, local_files_only=True, allow_patterns=[])
            )
        except LocalEntryNotFoundError:
            raise error from None
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()), False


def _config_beside(file, files):
    """[config.json of the folder that a file lies in], if it is there: it tells the numerics of a Hugging Face file."""
    name = (pathlib.PurePosixPath(file).parent / "config.json").as_posix()
    return [name] if name in files and name != file else []


def _shards(path, file, repository):
    """The names of the files that an index of shards, lying at `path`, spreads its weights over."""
    try:
        named = sorted(set(json.loads(path.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{repository.address.repo}'s {file} is no index of shards; name another file of the repository."
        ) from None
    folder = pathlib.PurePosixPath(file).parent
    names = [(folder / str(name)).as_posix() for name in named]
    missing = [name for name in names if name not in repository.files]
    if missing and repository.online:
        raise UserError(
            f"{repository.address.repo} lacks {missing[0]}, which its {file} names; "
            "name another file or revision of it."
        )
    return names


def _verify(path, address):
    """Compares a cached file with the SHA-256 that the hub announced, which the cache keeps as the name of the blob."""
    blob = pathlib.Path(os.readlink(path)).name if path.is_symlink() else ""
    if _SHA256.fullmatch(blob):
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != blob:
                stored = os.path.normpath(path.parent / os.readlink(path))
                raise UserError(
                    f"{path} is damaged, it has not the SHA-256 of {address}; remove {stored} and try again."
                )


@contextlib.contextmanager
def _told(address):
    """Turns what huggingface_hub raises into one sentence with the remedy."""
    from huggingface_hub import constants, errors

    where, page = f"{SCHEME}{address.repo}", f"{constants.ENDPOINT}/{address.repo}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(f"{where} is gated: accept its terms at {page}, then sign in with `hf auth login`.") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{where} does not exist or is private: check the name at {page}, or sign in with `hf auth login`."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(
            f"{where} has no revision {address.revision!r}; its branches, tags and commits are listed at {page}."
        ) from error
    except errors.EntryNotFoundError as error:
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise UserError(_unreachable(address)) from error
        raise UserError(f"{where} has no file {address.file!r}; its files are listed at {page}.") from error
    except errors.OfflineModeIsEnabled as error:
        raise UserError(_unreachable(address)) from error
    except errors.HfHubHTTPError as error:
        code = error.response.status_code
        remedy = (
            "try again later" if code >= 500 or code == 429 else "check who you are signed in as with `hf auth whoami`"
        )
        raise UserError(f"the hub {constants.ENDPOINT} answers {code} when asked for {address}; {remedy}.") from error
    except errors.HTTPError as error:
        raise UserError(_unreachable(address, f" ({type(error).__name__})")) from error
    except (OSError, RuntimeError) as error:  # of hf_xet the second
        reason = getattr(error, "strerror", None) or _first_line(error)
        place = f"the cache {constants.HF_HUB_CACHE} (HF_HOME moves it)"
        raise UserError(
            f"{address} could not be fetched into {place}: {reason}; free space there or try again."
        ) from error
    except ValueError as error:  # an answer that is no JSON, a name that no repository can have
        told = f"{constants.ENDPOINT} gives no hub's answer about {address} ({_first_line(error)})"
        raise UserError(f"{told}; check the address and HF_ENDPOINT.") from error


def _first_line(error):
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


def _unreachable(address, reason=""):
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return (
            f"{address} is not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids to fetch it; unset "
            "it and try again."
        )
    remedy = "connect, or download its weights elsewhere and give weights=FILE, in a recipe init_from=FILE"
    return (
        f"{address} is not in the cache {constants.HF_HUB_CACHE}, and {constants.ENDPOINT} cannot be "
        f"reached{reason}; {remedy}."
    )
