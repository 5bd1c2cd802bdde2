"""Rate the captions of a data set in the browser, alone or with others.

    python -m rsclip_jax.build.rate --data=data --name=rsicd --split=test --output=ratings.jsonl

prints the address of a page that shows a random sample of captions with their images, to be given
1 to 5 points for relevance, hallucination and fluency by keyboard. All raters get the same
captions, each in an order of their own. Every rating is on the disk before the page says so: stop
the command at any moment, even with kill -9, and run it again to go on.

    python -m rsclip_jax.build.rate --output=ratings.jsonl --report=agreement.json

writes means and the agreement of the raters, and prints them as tables.

To compare captions of several models, prepare a data set of each and give --name=ONE,OTHER: the
captions are mixed, and the page does not tell which is whose; the report does.
"""

import datetime
import ipaddress
import json
import logging
import socket
import sys
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import flask
import werkzeug.serving
from absl import app, flags
from werkzeug.exceptions import HTTPException

from rsclip_jax.build import agreement, files, ratings
from rsclip_jax.build.ratings import Item, RatingFile
from rsclip_jax.data import images
from rsclip_jax.data.records import RecordSource, open_source
from rsclip_jax.data.sources import InputError
from rsclip_jax.data.summary import KINDS
from rsclip_jax.host import printable_output

_MAX_SIDE = 2048  # pixels of an image that is shown
_MAX_REQUEST = 64 * 2**10  # bytes
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def make_app(
    sources: Mapping[str, RecordSource],
    items: Sequence[Item],
    file: RatingFile,
    host: str = "localhost",
) -> flask.Flask:
    """Make the page and what it asks the server for.

    Args:
      sources: data set -> its records.
      items: what is rated.
      file: where ratings go.
      host: a name of this machine in addresses, besides localhost and its own.
    """
    site = flask.Flask(
        __name__, static_folder="pages", static_url_path="/pages", template_folder="pages"
    )
    site.config["MAX_CONTENT_LENGTH"] = _MAX_REQUEST
    by_token = {item.token: item for item in items}
    names = {"localhost", socket.gethostname().lower(), host.lower()}

    @site.before_request
    def refuse_other_sites() -> None:
        if not _is_own(flask.request.host, names):
            # A site whose name was made to lead here (DNS rebinding) could read and rate.
            flask.abort(403, f"unknown host {flask.request.host}: use its address, or --host")
        origin = flask.request.headers.get("Origin")
        if flask.request.method != "GET" and origin is not None:
            if urllib.parse.urlsplit(origin).netloc != flask.request.host:
                flask.abort(403, f"a page of {origin} cannot rate here")

    @site.after_request
    def add_headers(response: flask.Response) -> flask.Response:
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @site.errorhandler(HTTPException)
    def tell(error: HTTPException) -> tuple[dict[str, str | None], int]:
        return {"error": error.description}, error.code or 500

    @site.get("/")
    def page() -> flask.Response:
        return site.send_static_file("rate.html")

    @site.get("/session")
    def session() -> dict[str, Any]:
        rater = _rater(flask.request.args.get("rater", ""))
        own = {(r.item, r.caption): r for r in file.ratings() if r.rater == rater}
        return {"rater": rater, "items": [_shown(i, own) for i in ratings.in_order(items, rater)]}

    @site.post("/ratings")
    def rate() -> dict[str, str]:
        given = flask.request.get_json()  # 415 for what a form of another site can send
        if not isinstance(given, dict):
            flask.abort(400, "expected a JSON object")
        item = by_token.get(str(given.pop("token", "")))
        if item is None:
            flask.abort(409, "this caption is not in the sample that is rated here now")
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        place = {"item": item.name, "dataset": item.dataset, "kind": item.kind}
        place |= {"caption": ratings.caption_hash(item.text), "time": now}
        try:
            if clash := sorted(set(given) & set(place)):
                raise ValueError(f"the page cannot tell {clash}")
            rating = ratings.make_rating({**given, **place})
        except ValueError as error:
            flask.abort(400, str(error))
        try:
            file.add(rating)
        except OSError as error:
            flask.abort(503, f"the rating could not be saved: {error}")
        return {"saved": item.token}

    @site.get("/images/<token>/<any(image,ir):which>")
    def image(token: str, which: str) -> flask.Response:
        item = by_token.get(token)
        data = sources[item.dataset][item.index][which] if item else b""
        if not data:
            flask.abort(404, "there is no such image")
        try:
            png = _png(data)
        except ValueError as error:
            flask.abort(404, f"the image cannot be read: {error}")
        headers = {"Cache-Control": "private, max-age=600"}
        return flask.Response(png, mimetype="image/png", headers=headers)

    @site.get("/results")
    def results() -> str:
        found = agreement.agreement(file.ratings())
        return flask.render_template(
            "results.html", tables=agreement.tables(found), notes=agreement.notes(found)
        )

    @site.get("/results.json")
    def results_json() -> dict[str, Any]:
        return agreement.agreement(file.ratings())

    return site


def _is_own(host: str, names: set[str]) -> bool:
    try:
        name = urllib.parse.urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name in names:
        return True
    try:
        ipaddress.ip_address(name)  # an address is no name that could be made to lead here
    except ValueError:
        return False
    return True


def _rater(name: str) -> str:
    try:
        return ratings.check_rater(name)
    except ValueError as error:
        flask.abort(400, str(error))


def _shown(item: Item, own: Mapping[tuple[str, str], ratings.Rating]) -> dict[str, Any]:
    """Return what a rater is told of an item: not which data set it is from."""
    rating = own.get((item.name, ratings.caption_hash(item.text)))
    shown = {"token": item.token, "kind": item.kind, "caption": item.text}
    told = ("comment", "seconds", *ratings.CRITERIA)
    mine = {name: getattr(rating, name) for name in told} if rating else None
    return shown | {"infrared": item.infrared, "rating": mine}


def _png(data: bytes) -> bytes:
    """Turn any image that models can be given into one that browsers show."""
    pixels = images.decode(data)
    shrink = _MAX_SIDE / max(pixels.shape[:2])
    if shrink < 1:
        pixels = cv2.resize(pixels, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()


class _Handler(werkzeug.serving.WSGIRequestHandler):
    """Lets go of a client that says nothing for so many seconds: each holds a thread."""

    timeout = 30


def serve(site: flask.Flask, host: str, port: int, output: str) -> None:
    """Serve the page until the command is stopped.

    Raises:
      OSError: host and port cannot be had.
    """
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # not a line for each request
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise OSError(f"{error.strerror}; choose another --port or --host") from None
    with listener:
        port = listener.getsockname()[1]
        server = werkzeug.serving.make_server(
            host, port, site, threaded=True, request_handler=_Handler, fd=listener.fileno()
        )
        shown = socket.gethostname() if host in ("0.0.0.0", "::") else host
        shown = f"[{shown}]" if ":" in shown else shown
        print(f"Rate at http://{shown}:{port}/ (Ctrl-C ends this; ratings are in {output})")
        sys.stdout.flush()
        server.serve_forever()  # ends at Ctrl-C
        print("\nstopped; the same command goes on")


def report(output: str, path: str) -> str:
    """Write the statistics of a file of ratings as JSON, and return them as Markdown.

    Raises:
      InputError: it is no file of ratings, or an empty one. OSError: cannot be read or written.
    """
    given = ratings.read_ratings(output)
    if not given:
        raise InputError(f"{output} holds no ratings yet")
    found = agreement.agreement(given)
    files.write(path, (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode())
    return agreement.markdown(found)


def define_flags() -> None:
    """Define the flags; not on import, where they would meet those of the other commands."""
    flags.DEFINE_string("data", "", "Directory of the data sets.")
    flags.DEFINE_list("name", [], "Data set in --data; several are mixed, and reported each.")
    flags.DEFINE_string("split", "train", "Split of it.")
    flags.DEFINE_string("output", None, "File of ratings (JSONL), continued.", required=True)
    flags.DEFINE_integer("samples", 200, "Captions to rate, of different images.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of the sample.", lower_bound=0)
    flags.DEFINE_list("kinds", list(KINDS.values()), "Kinds of captions that are wanted.")
    flags.DEFINE_string("host", "127.0.0.1", "Address to serve at; 0.0.0.0: to other machines.")
    flags.DEFINE_integer("port", 8765, "0: any that is free.", 0, 65535)
    flags.DEFINE_string("report", "", "Write statistics of --output as JSON there, print them.")


def main(argv: list[str]) -> None:
    """Run the command; wrong input ends it with a message and status 1."""
    if argv[1:]:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    printable_output()
    given = flags.FLAGS
    try:
        if given.report:
            print(report(given.output, given.report))
            return
        if not (given.data and given.name):
            raise InputError("--data and --name say what is rated; --report needs neither")
        sources = {name: open_source(given.data, name, given.split) for name in given.name}
        items = ratings.draw_items(sources, given.samples, given.seed, given.kinds)
        file = RatingFile(given.output)
        changed = ratings.check_sample(items, file.ratings(), given.output)
        if file.removed:
            print("rate: removed an unfinished last line of the ratings", file=sys.stderr)
        if changed:
            names = ", ".join(changed[:5])
            told = f"{len(changed):,} captions have changed since they were rated ({names})"
            print(f"rate: {told}: they are asked again", file=sys.stderr)
        if len(items) < given.samples:
            told = f"{len(items):,} captions of different images, not {given.samples:,}"
            print(f"rate: the data has {told}", file=sys.stderr)
        serve(make_app(sources, items, file, given.host), given.host, given.port, given.output)
    except (InputError, OSError, ValueError) as error:
        sys.exit(f"rate: {error}")


if __name__ == "__main__":
    define_flags()
    app.run(main)
