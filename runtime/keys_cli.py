"""`inspectd keys`: keys of a station, of its clients, and of those who sign bundles."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = ["app"]

app = typer.Typer(name="keys", help="Make, list and revoke keys, sign and verify bundles.", no_args_is_help=True)

Keys = Annotated[Path, typer.Option("--keys", metavar="DIR", help="The station's folder of keys (security.keys_dir).")]
_HERE = Path("state/keys")
# Not from inspectd.config, which would make every --help slow; its tests hold the two together.
Role = Literal["viewer", "operator", "engineer"]


@app.command(short_help="Make a station's keys.")
def station(keys: Keys = _HERE) -> None:
    """Make a station's pair of keys; the public one is printed, clients need it.

    \b
    Example:
      inspectd keys station --keys /var/lib/inspectd/keys
    """  # noqa: D301
    from .access import KeysFolder

    print(KeysFolder(keys).make_station())


@app.command(short_help="Let a client in.")
def client(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the client, for lists, logs and the audit trail.")],
    role: Annotated[Role, typer.Option(help="What it may do.")] = "viewer",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write its keys here, for the client alone.")] = None,
    public: Annotated[str | None, typer.Option(metavar="KEY", help="Its own public key, made elsewhere.")] = None,
    keys: Keys = _HERE,
) -> None:
    """Let a client in: with new keys in a file for it (--out), or with the public key that it made itself (--public).

    \b
    Examples:
      inspectd keys client plc-3 --role viewer --out plc-3.toml
      inspectd keys client anna --role engineer --public 'KEY'
    """  # noqa: D301
    from inspectd.errors import ConfigError

    from .access import KeysFolder, make_pair, write_client_file

    if (out is None) == (public is None):
        raise ConfigError("say either --out FILE, for new keys, or --public KEY, for those that the client has")
    folder = KeysFolder(keys)
    access = folder.load()
    today = dt.datetime.now(dt.timezone.utc).date()
    if public is not None:
        folder.add(name, role, public, today=today)
    elif out is not None:
        made_public, made_secret = make_pair()
        write_client_file(out, access.public, made_public, made_secret)
        try:
            folder.add(name, role, made_public, today=today)
        except ConfigError:
            out.unlink()
            raise
        print(f"{out}: the keys of {name} ({role}); give it to the client, and keep no copy")


@app.command("list", short_help="Show who is let in.")
def list_(keys: Keys = _HERE) -> None:
    """Show the station's public key, and who is let in as what.

    \b
    Example:
      inspectd keys list --keys /var/lib/inspectd/keys
    """  # noqa: D301
    from rich.console import Console
    from rich.table import Table

    from .access import KeysFolder

    folder = KeysFolder(keys)
    console = Console(highlight=False)
    console.print(f"station {folder.load().public}", markup=False)
    table = Table("name", "role", "key", "created", "revoked", box=None)
    for entry in folder.entries():
        revoked = "" if entry.revoked is None else entry.revoked.isoformat()
        table.add_row(entry.name, entry.role, f"{entry.key[:8]}…", entry.created.isoformat(), revoked)
    console.print(table)


@app.command(short_help="Let a client in no more.")
def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the client.")],
    keys: Keys = _HERE,
) -> None:
    """Let a client in no more. A station that runs cuts it off within a second; the others connect again by themselves.

    \b
    Example:
      inspectd keys revoke plc-3
    """  # noqa: D301
    from .access import KeysFolder

    KeysFolder(keys).revoke(name, today=dt.datetime.now(dt.timezone.utc).date())
    print(f"{name}: is let in no more")


@app.command(short_help="Give a station new keys.")
def rotate(keys: Keys = _HERE) -> None:
    """Give a station new keys. Every client needs the new public key: the files of before let nobody in any more.

    \b
    Example:
      inspectd keys rotate
    """  # noqa: D301
    from .access import KeysFolder

    folder = KeysFolder(keys)
    print(folder.make_station(replace_old=True))
    names = [entry.name for entry in folder.entries() if entry.revoked is None]
    if names:
        print(f"its new public key is needed by {', '.join(names)}")


@app.command(short_help="Make a pair of keys that sign bundles.")
def signing(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who signs.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Write the secret key here.")],
) -> None:
    """Make a pair of keys that sign bundles: the secret one in FILE, the public one in FILE.pub, as a line of a list.

    \b
    Example:
      inspectd keys signing "vision team" --out vision.key
      cat vision.key.pub >> /var/lib/inspectd/trusted.keys        (model.trusted_keys of the station)
    """  # noqa: D301
    from inspectd.signing import make_signing_key

    print(make_signing_key(out, name))


@app.command(short_help="Sign a bundle.")
def sign(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder or .zip.")],
    key: Annotated[Path, typer.Option(metavar="FILE", help="The secret key.")],
) -> None:
    """Sign a bundle: whoever has the public key can tell that it is yours, and unchanged.

    \b
    Example:
      inspectd keys sign out/bundle --key vision.key
    """  # noqa: D301
    from inspectd.signing import sign_bundle

    print(f"{bundle}: signed by {sign_bundle(bundle, key)}")


@app.command(short_help="Verify the signature of a bundle.")
def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder or .zip.")],
    trusted: Annotated[Path, typer.Option(metavar="FILE", help="Public keys, one a line (model.trusted_keys).")],
) -> None:
    """Verify that a bundle was signed by one who is trusted, and that it is whole.

    \b
    Example:
      inspectd keys verify out/bundle --trusted trusted.keys
    """  # noqa: D301
    from inspectd.bundle import load_bundle
    from inspectd.signature import TrustList

    opened = load_bundle(bundle, trusted=TrustList.load(trusted))
    opened.verify()
    print(f"{bundle}: signed by {opened.signer}, all files are as they were exported")
