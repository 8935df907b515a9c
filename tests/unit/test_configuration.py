"""Reading the settings: file, environment, and every fault at once with its place and its mend."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from vestry.configuration.reading import LARGEST_FILE, digest, load, read, schema
from vestry.faults import ConfigurationError, Fault
from vestry.settings.tree import Model, Settings, Tenant

KNOWN = "sha256:a8f6d98265c578409a4860ea0e5c1714ca9188d1ffb2be02178993ec7fa09f13"

Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes `vestry.yaml` into the current directory."""
    monkeypatch.chdir(tmp_path)

    def put(content: str | bytes) -> Path:
        path = Path("vestry.yaml")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return put


def faults(path: Path | None, **environ: str) -> list[str]:
    """What is wrong, as `place: what. mend`."""
    with pytest.raises(ConfigurationError) as caught:
        load(path, environ)
    assert all(fault.place and fault.what and fault.mend for fault in caught.value.faults)
    assert str(caught.value) == "\n".join(f"- {fault}" for fault in caught.value.faults)
    return [str(fault) for fault in caught.value.faults]


def fault(path: Path | None, **environ: str) -> str:
    """The one thing that is wrong."""
    found = faults(path, **environ)
    assert len(found) == 1, found
    return found[0]


# The file.


def test_without_anything_the_defaults_hold() -> None:
    """No file and no variable give the settings that the class describes."""
    assert load(None, {"PATH": "/bin"}) == Settings()


def test_a_file_is_read(write: Write) -> None:
    """Sections, tables, lists and paths come out as the tree, with the right types."""
    found = load(
        write(
            "server:\n  port: 9000\n  allowed_hosts: [LLM.Example, '[::1]']\n  tls: {certificate: a.pem, key: b.pem}\n"
            "relay: {retry_budget: 1, idle_seconds: 2.5}\n"
            "tenants:\n  radiology: {models: [m]}\n"
            "models:\n  m:\n    replicas: [{url: 'http://10.0.0.1:8000/'}]\n    engine: {arguments: [--seed, '1']}\n"
        ),
        {},
    )
    assert found.server.port == 9000
    assert found.server.allowed_hosts == ("llm.example", "[::1]")
    assert found.server.tls is not None
    assert found.server.tls.key == Path("b.pem")
    assert (found.relay.retry_budget, found.relay.idle_seconds) == (1.0, 2.5)
    assert found.tenants["radiology"].models == ("m",)
    assert found.models["m"].replicas[0].url == "http://10.0.0.1:8000"
    assert found.models["m"].engine.arguments == ("--seed", "1")


def test_sections_with_nothing_under_them_have_their_defaults(write: Write) -> None:
    """A section whose lines are all commented out is as if left out; so are tenants and models with a name alone."""
    found = load(write("server:\n  # port: 1\ntenants:\n  a:\nmodels:\n  m:\n    engine:\n"), {})
    assert found.server == Settings().server
    assert list(found.tenants) == ["a"]
    assert found.models["m"].engine.port == 8100


def test_a_byte_order_mark_is_no_matter(write: Write) -> None:
    """A file that some editor began with a mark is read."""
    assert load(write(b"\xef\xbb\xbflog_level: debug\n"), {}).log_level == "debug"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "vestry.yaml: the file is empty"),
        ("# nothing\n", "vestry.yaml: the file is empty"),
        ("- server\n", "vestry.yaml:1: the file is not a mapping"),
        ("server", "vestry.yaml:1: the file is not a mapping"),
        ("log_level: info\nlog_level: debug\n", "vestry.yaml:2: `log_level` stands here a second time"),
        (b"a: 1\nb: \xff\n", "vestry.yaml:2: the file is not UTF-8 text"),
        ("log_level: info\n".encode("utf-16"), "vestry.yaml:1: the file is not UTF-8 text"),
        ("#" * (LARGEST_FILE + 1), f"vestry.yaml: the file is larger than {LARGEST_FILE} bytes"),
        ("server: [\n", "vestry.yaml:2: this is not YAML"),
        ("log_level: !!str info\n", "vestry.yaml:1: tags"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_fault(write: Write, content: str | bytes, said: str) -> None:
    """Empty, not a mapping, doubled, not UTF-8, huge, not YAML: one sentence with the line, and no consequences."""
    assert fault(write(content)).startswith(said)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A missing file, a folder, a path that is none: told, with the mend."""
    assert "No such file" in fault(tmp_path / "none.yaml")
    assert "--config" in fault(tmp_path / "none.yaml")
    assert "directory" in fault(tmp_path).lower()
    assert "not a path" in fault(Path("a\0b"))


def test_an_endless_file_is_refused() -> None:
    """A device that never ends is read only up to the bound."""
    assert "larger than" in fault(Path("/dev/zero"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("server:\n  prot: 1\n", "vestry.yaml:2 server.prot: there is no such setting. Did you mean `port`?"),
        ("severs: {}\n", "vestry.yaml:1 severs: there is no such setting. Did you mean `server`?"),
        ("zzz: 1\n", "vestry.yaml:1 zzz: there is no such setting. Remove it"),
        ("server:\n\n  port: '80'\n", "vestry.yaml:3 server.port: this must be a whole number. About `port`: Port of"),
        ("server:\n  port: true\n", "vestry.yaml:2 server.port: this must be a whole number"),
        ("server:\n  port: 80.5\n", "vestry.yaml:2 server.port: this must be a whole number"),
        ("server:\n  port: 65536\n", "vestry.yaml:2 server.port: this must be at most 65535"),
        ("server:\n  port: -1\n", "vestry.yaml:2 server.port: this must be at least 0"),
        (f"server:\n  port: {'9' * 30}\n", "vestry.yaml:2 server.port: this"),
        ("door:\n  header_seconds: 0\n", "vestry.yaml:2 door.header_seconds: this must be more than 0"),
        ("door:\n  header_seconds: .nan\n", "vestry.yaml:2 door.header_seconds: this must be a number"),
        ("door:\n  header_seconds: yes\n", "vestry.yaml:2 door.header_seconds: this must be a number"),
        ("log_level: loud\n", "vestry.yaml:1 log_level: this must be 'debug', 'info', 'warning' or 'error'"),
        ("state: 5\n", "vestry.yaml:1 state: this must be text"),
        ("server:\n  allowed_hosts: a.example\n", "vestry.yaml:2 server.allowed_hosts: this must be a list"),
        ("server: 5\n", "vestry.yaml:1 server: this must be a mapping"),
        ("tenants: []\n", "vestry.yaml:1 tenants: this must be a mapping"),
        ("tenants:\n  a: 5\n", "vestry.yaml:2 tenants.a: this must be a mapping"),
        (
            "tenants:\n  Radiology: {}\n",
            "vestry.yaml:2 tenants.Radiology: this is not such a name: write 1 to 63 of a-z",
        ),
        ("models:\n  'a b': {}\n", "vestry.yaml:2 models.a b: this is not such a name"),
        ("audit:\n  origin: A\n", "vestry.yaml:2 audit.origin: this is not such a name"),
        ("audit:\n  origin: a/../b\n", "vestry.yaml:2 audit.origin: between slashes"),
        (
            "audit:\n  origin: cli\n",
            "vestry.yaml:2 audit.origin: `cli`, and what ends in `-cli`, is a log of the command",
        ),
        ("audit:\n  origin: a-cli\n", "vestry.yaml:2 audit.origin: `cli`, and what ends in `-cli`, is a log of the"),
        ("audit:\n  commands: server\n", "vestry.yaml:2 audit.commands: this is not such a name: write `cli`, or"),
        ("server:\n  host: a b\n", "vestry.yaml:2 server.host: this is neither an IP address nor a host name"),
        ("server:\n  host: '127.1'\n", "vestry.yaml:2 server.host: this is neither an IP address nor a host name"),
        ("server:\n  allowed_hosts: ['http://a']\n", "vestry.yaml:2 server.allowed_hosts: `http://a` is not a host"),
        ("server:\n  allowed_hosts: ['::1']\n", "vestry.yaml:2 server.allowed_hosts: `::1` is not a host"),
        (
            "server:\n  trusted_proxies: [10.0.0.0/33]\n",
            "vestry.yaml:2 server.trusted_proxies: `10.0.0.0/33` is neither",
        ),
        (
            "server:\n  client_certificate_header: client-cert\n",
            "vestry.yaml:1 server: `client_certificate_header` is believed from `trusted_proxies` only",
        ),
        (
            "server:\n  tls: {certificate: c, key: k, client_ca: a, client_crl: r}\n",
            "vestry.yaml:2 server.tls: `client_crl` revokes client certificates, but",
        ),
        (
            "identity:\n  certificates: [{san: 'DNS:a', tenant: a}]\n",
            "vestry.yaml: `identity.certificates` says whom client certificates stand for, but none can be shown",
        ),
        (
            "identity:\n  certificates:\n  - {san: 'CN=a', tenant: a}\n",
            "vestry.yaml:3 identity.certificates[0].san: write it as `DNS:`, `URI:`",
        ),
        (
            "identity:\n  certificates:\n  - {san: 'DNS:a', tenant: a, sources: [10.0.0.0/33]}\n",
            "vestry.yaml:3 identity.certificates[0].sources[0]: this is neither an address",
        ),
        (
            "identity:\n  certificates:\n  - {san: 'DNS:a', tenant: a, subject: ' a'}\n",
            "vestry.yaml:3 identity.certificates[0].subject: write printable characters",
        ),
        ("server:\n  port: 80\n  ops_port: 80\n", "vestry.yaml:1 server: `port` and `ops_port` are the same"),
        ("server:\n  port: 8082\n", "vestry.yaml:1 server: `port` and `admin_port` are the same"),
        ("server:\n  ops_port: 8082\n", "vestry.yaml:1 server: `ops_port` and `admin_port` are the same"),
        (
            "server:\n  tls:\n    key: k\n",
            "vestry.yaml:2 server.tls.certificate: `certificate` is missing. Add it. About",
        ),
        (
            "server:\n  tls: {certificate: c, key: k, client_certificates: required}\n",
            "vestry.yaml:2 server.tls: client certificates are asked for",
        ),
        ("models:\n  m:\n    replicas:\n      - {}\n", "vestry.yaml:4 models.m.replicas[0].url: `url` is missing"),
        (
            "tenants:\n  a:\n    models: [x]\n",
            "vestry.yaml:3 tenants.a.models[0]: tenant `a` may use `x`, which is not",
        ),
    ],
)
def test_each_fault_has_its_place_and_mend(write: Write, content: str, said: str) -> None:
    """What is wrong with a value is told with its line and its name."""
    assert fault(write(content)).startswith(said)


@pytest.mark.parametrize(
    "url",
    [
        "http://8.8.8.8:80",
        "http://169.254.169.254:80",
        "http://[fe80::1]:80",
        "http://[::ffff:8.8.8.8]:80",
        "http://0.0.0.0:80",
        "http://224.0.0.1:80",
        "http://user:word@10.0.0.1:80",
        "http://10.0.0.1",
        "http://10.0.0.1:99999",
        "http://10.0.0.1:0",
        "ftp://10.0.0.1:80",
        "http://10.0.0.1:80/v1",
        "http://10.0.0.1:80?x",
        "http://127.1:80",
        "http://0x7f000001:80",
        "http://[::1:80",
        "10.0.0.1:80",
        "",
    ],
)
def test_engines_have_private_addresses_and_plain_urls(write: Write, url: str) -> None:
    """Public, link-local and odd addresses, and URLs with more than an origin, are refused."""
    said = fault(write(json.dumps({"models": {"m": {"replicas": [{"url": url}]}}})))
    assert said.startswith("vestry.yaml:1 models.m.replicas[0].url: ")


@pytest.mark.parametrize(
    "host", ["10.1.2.3", "172.31.0.1", "192.168.0.1", "127.0.0.1", "100.64.0.1", "[::1]", "[fd00::1]", "vllm.ai.svc"]
)
def test_private_engines_are_taken(write: Write, host: str) -> None:
    """Loopback, RFC 1918, RFC 4193 and RFC 6598 addresses, and names, may be engines."""
    url = f"HTTP://{host}:8000/"
    found = load(write(json.dumps({"models": {"m": {"replicas": [{"url": url}]}}})), {})
    assert found.models["m"].replicas[0].url == f"http://{host}:8000"


def test_every_fault_at_once(write: Write) -> None:
    """Faults of the file, of values, of tenants and of the environment come in one list."""
    path = write(
        "server:\n  port: x\n  prot: 1\ndoor:\n  headers: 1\n  headers: 1\ntenants:\n  a:\n    models: [n, m]\n"
        "models:\n  m:\n  n1: {engine: {port: 70000}}\n"
    )
    found = faults(path, VESTRY_RELAY__PROBE_SECONDS="0", VESTRY_NONE="1")
    places = sorted(line.partition(": ")[0] for line in found)
    assert places == [
        "environment VESTRY_NONE",
        "environment VESTRY_RELAY__PROBE_SECONDS",
        "vestry.yaml:12 models.n1.engine.port",
        "vestry.yaml:2 server.port",
        "vestry.yaml:3 server.prot",
        "vestry.yaml:5 door.headers",
        "vestry.yaml:6",
        "vestry.yaml:9 tenants.a.models[0]",
    ]
    assert any("Did you mean `n1`?" in line for line in found)


def test_no_value_is_repeated(write: Write) -> None:
    """What stands in the wrong place could be a secret: faults do not show it."""
    path = write("server:\n  port: SECRET\n  host: 'SE CRET'\nlog_level: SECRET\ndoor: SECRET\n")
    assert "SECRET" not in "".join(faults(path, VESTRY_SERVER__BACKLOG="SECRET", VESTRY_STATE="[SECRET]"))


# The environment.


def test_variables_win_over_the_file(write: Write) -> None:
    """A variable sets one field and leaves its neighbours as the file has them."""
    found = load(write("server:\n  port: 9000\n  backlog: 500\n"), {"VESTRY_SERVER__PORT": "9001"})
    assert (found.server.port, found.server.backlog) == (9001, 500)


def test_values_of_variables_are_yaml() -> None:
    """Numbers, lists, mappings and null are read as in a file."""
    found = load(
        None,
        {
            "VESTRY_STATE": "/srv/vestry",
            "VESTRY_SERVER__ALLOWED_HOSTS": "[a.example, b.example]",
            "VESTRY_SERVER__TLS": "{certificate: c, key: k}",
            "VESTRY_SERVER__TLS__KEY": "other",
            "VESTRY_SERVER__TRUSTED_PROXIES": "[10.0.0.0/8, '::1']",
            "VESTRY_AUDIT__DIRECTORY": "",
            "VESTRY_AUDIT__ORIGIN": "ward-3/server",
            "VESTRY_TENANTS": "{a: , b: {concurrency: 2}}",
            "VESTRY_TENANTS__A__CONCURRENCY": "3",
        },
    )
    assert found.state == Path("/srv/vestry")
    assert found.server.allowed_hosts == ("a.example", "b.example")
    assert found.server.tls is not None
    assert (found.server.tls.certificate, found.server.tls.key) == (Path("c"), Path("other"))
    assert found.server.trusted_proxies == ("10.0.0.0/8", "::1")
    assert (found.audit.directory, found.audit.origin) == (None, "ward-3/server")
    assert {name: tenant.concurrency for name, tenant in found.tenants.items()} == {"a": 3, "b": 2}


def test_variables_reach_into_the_defaults() -> None:
    """The default tenant and the default model can be changed without naming them in a file."""
    found = load(
        None,
        {"VESTRY_TENANTS__DEFAULT__CONCURRENCY": "7", "VESTRY_MODELS__SMOLLM2_135M_INSTRUCT__ENGINE__PORT": "8200"},
    )
    assert found.tenants["default"].concurrency == 7
    assert found.models["smollm2-135m-instruct"].engine.port == 8200


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("VESTRY_SERVR__PORT", "there is no such setting. Did you mean VESTRY_SERVER__PORT?"),
        ("VESTRY_SERVER__PROT", "there is no such setting. Did you mean VESTRY_SERVER__PORT?"),
        ("VESTRY_SERVER__PORT__X", "there is no such setting. Did you mean VESTRY_SERVER__PORT?"),
        ("VESTRY_DOOR_HEADERS", "there is no such setting. Did you mean VESTRY_DOOR__HEADERS?"),
        ("VESTRY_SERVER__TLS__CERTIFCATE", "there is no such setting. Did you mean VESTRY_SERVER__TLS__CERTIFICATE?"),
        ("VESTRY_SERVER__PORT__X__Y__Z", "there is no such setting. Remove it"),
        ("VESTRY_XYZZY", "there is no such setting. Remove it"),
        ("VESTRY_", "there is no such setting. Remove it"),
        ("VESTRY_A__", "there is no such setting. Remove it"),
        ("VESTRY_TENANTS__NONE__CONCURRENCY", "there is nothing of that name among `tenants`. Known: `default`"),
        ("VESTRY_MODELS__X__ENGINE__PORT", "there is nothing of that name among `models`. Known: `smollm2"),
        ("VESTRY_MODELS__SMOLLM2_135M_INSTRUCT__PROT", "there is no such setting"),
        ("VESTRY_PORT", "there is no such setting; Kubernetes sets such names"),
        ("VESTRY_SERVICE_HOST", "there is no such setting; Kubernetes sets such names"),
        ("VESTRY_SERVICE_PORT_HTTP", "there is no such setting; Kubernetes sets such names"),
        ("VESTRY_PORT_8080_TCP_ADDR", "there is no such setting; Kubernetes sets such names"),
        ("VESTRY_OPS_SERVICE_PORT", "there is no such setting; Kubernetes sets such names"),
    ],
)
def test_unknown_variables_are_faults(name: str, said: str) -> None:
    """A name of ours that is no setting is told, with what was probably meant."""
    assert fault(None, **{name: "1"}).startswith(f"environment {name}: {said}")


def test_a_single_underscore_is_not_taken_for_kubernetes_alone() -> None:
    """The likely slip of writing one underscore for two is told, though Kubernetes might set that name as well."""
    assert fault(None, VESTRY_SERVER_PORT="1").endswith("Did you mean VESTRY_SERVER__PORT?")


def test_a_variable_fills_a_section_that_was_written_empty(write: Write) -> None:
    """A tenant or section with nothing under it in the file takes what a variable says."""
    path = write("server:\ntenants:\n  a:\nmodels:\n  m:\n")
    found = load(
        path, {"VESTRY_TENANTS__A__CONCURRENCY": "3", "VESTRY_SERVER__PORT": "1", "VESTRY_MODELS__M__ENGINE__PORT": "2"}
    )
    assert (found.tenants["a"].concurrency, found.server.port, found.models["m"].engine.port) == (3, 1, 2)


def test_other_variables_of_ours_are_left_alone() -> None:
    """Names for the command line, the tests and the bench are no settings and no faults."""
    environ = {
        "VESTRY_CONFIG": "x",
        "VESTRY_API_KEY": "x",
        "VESTRY_TEST_A": "x",
        "VESTRY_BENCH_B": "x",
        "MY_VESTRY_X": "x",
    }
    assert load(None, environ) == Settings()


def test_a_name_that_fits_two_is_told(write: Write) -> None:
    """Where `_` could stand for either of two names, a variable is refused."""
    path = write("models:\n  a.b:\n  a-b: {engine: {port: 8101}}\n")
    assert "it could be any of `a.b`, `a-b`" in fault(path, VESTRY_MODELS__A_B__ENGINE__PORT="1")


@pytest.mark.parametrize("value", ["[1", "a: b: c", "{a: 1, a: 2}", "*x", "!x y", "\udcff", '"\\0"'])
def test_bad_yaml_in_a_variable_is_told(value: str) -> None:
    """A value that is not read is a fault of its variable."""
    assert fault(None, VESTRY_STATE=value).startswith("environment VESTRY_STATE: ")


def test_faults_inside_a_variables_mapping_are_placed() -> None:
    """Within a mapping that a variable gives, the place is the variable and the field."""
    said = fault(None, VESTRY_SERVER="{port: x}")
    assert said.startswith("environment VESTRY_SERVER port: this must be a whole number")


def test_a_variable_into_what_is_no_section(write: Write) -> None:
    """Where the file has a number for a section, that is the fault."""
    found = faults(write("server: 5\n"), VESTRY_SERVER__PORT="1")
    assert found[0].startswith("vestry.yaml:1 server: this must be a mapping")
    assert len(found) == 1


# Places and digests.


def test_places_of_settings(write: Write) -> None:
    """What is looked at later can be told with the line where it was written."""
    places = read(write("server:\n  tls:\n    key: k\n    certificate: c\n"), {"VESTRY_STATE": "x"}).places
    assert places.of(("server", "tls", "key")) == "vestry.yaml:3 server.tls.key"
    assert places.of(("state",)) == "environment VESTRY_STATE"
    assert places.of(("audit", "directory")) == "vestry.yaml audit.directory"
    assert read(None, {}).places.of(("audit", "directory")) == "audit.directory"
    assert read(None, {}).places.of(()) == "settings"


def test_the_digest_is_of_the_meaning(write: Write) -> None:
    """Order, spelling and defaults written out do not change the digest; a changed value does."""
    plain = digest(Settings())
    assert plain.startswith("sha256:")
    assert len(plain) == 7 + 64
    assert digest(load(write("door: {headers: 100}\nserver: {port: 0x1f90, drain_seconds: 30.0}\n"), {})) == plain
    assert digest(load(None, {"VESTRY_SERVER__DRAIN_SECONDS": "30"})) == plain
    assert digest(load(None, {"VESTRY_SERVER__DRAIN_SECONDS": "31"})) != plain


def test_the_digest_is_the_same_everywhere() -> None:
    """A known tree has a known digest: records of different machines and days can be compared."""
    assert digest(Settings(state=Path("s"), tenants={"a": Tenant()}, models={"m": Model()})) == KNOWN


# Garbage.

keywords = st.sampled_from(
    [*Settings.model_fields, "port", "tls", "host", "m", "url", "replicas", "engine", "default", "x"]
)
plain: st.SearchStrategy[Any] = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
trees = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keywords, inner, max_size=4))


@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(content=trees.map(yaml.safe_dump).map(str.encode) | st.binary(max_size=80))
@example(content=b"%YAML 1.1")
def test_garbage_raises_only_our_error(tmp_path: Path, content: bytes) -> None:
    """Whatever stands in the file, it is settings or a list of faults."""
    path = tmp_path / "vestry.yaml"
    path.write_bytes(content)
    outcome(path, {})


@settings(max_examples=150, deadline=None)
@given(
    name=st.lists(
        st.sampled_from(["server", "tls", "port", "tenants", "default", "models", "audit", "x", ""]), max_size=4
    ),
    value=st.text(max_size=20) | trees.map(yaml.safe_dump),
)
def test_garbage_in_variables_raises_only_our_error(name: list[str], value: str) -> None:
    """Whatever a variable is called and holds, it is a setting or a fault."""
    outcome(None, {"VESTRY_" + "__".join(name).upper(): value})


def outcome(path: Path | None, environ: dict[str, str]) -> None:
    """Load; if that fails, it is with faults that are whole."""
    found: list[Fault] | None = None
    try:
        load(path, environ)
    except ConfigurationError as error:
        found = error.faults
    assert found is None or found
    assert all(each.place and each.what and each.mend for each in found or ())


# The schema.


def test_the_schema_takes_what_is_taken(write: Write) -> None:
    """A file that loads fits the JSON Schema: short, long, and with empty sections."""
    judge = jsonschema.Draft202012Validator(json.loads(schema()))
    for content in (
        "server:\n  port: 80\n",
        "server:\ntenants:\n  a:\nmodels:\n  m: {replicas: [{url: 'http://10.0.0.1:1'}]}\n",
    ):
        load(write(content), {})
        judge.validate(yaml.safe_load(content))
    judge.validate(json.loads(Settings().model_dump_json()))


@pytest.mark.parametrize(
    "content",
    [
        "prot: 1",
        "server: {prot: 1}",
        "server: {port: x}",
        "tenants: {A b: {}}",
        "server: {port: 65536}",
        "log_level: x",
    ],
)
def test_the_schema_refuses_what_is_refused(write: Write, content: str) -> None:
    """An editor that knows the schema shows the faults that `load` finds."""
    assert not jsonschema.Draft202012Validator(json.loads(schema())).is_valid(yaml.safe_load(content))
    faults(write(content))
