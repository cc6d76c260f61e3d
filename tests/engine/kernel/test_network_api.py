"""The API's network handlers over a real manager: what `docker network` sees."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from network_lab import Machine, isolated, needs_root, state

from longshore.api.http import Query, Reply, Request
from longshore.api.networks import ROUTES
from longshore.api.routes import Router
from longshore.core.database import Database
from longshore.core.events import EventBus
from longshore.core.networks import Networks
from longshore.errors import Conflict, Forbidden, InvalidArgument, NotFound, Unsupported
from longshore.network.manager import NetworkManager, NetworkSettings, PortMapping

pytestmark = needs_root


class Client:
    def __init__(self, networks: Networks) -> None:
        self.engine: Any = SimpleNamespace(networks=networks)
        self.router = Router(ROUTES)

    async def __call__(self, method: str, path: str, body: object = None, **query: str) -> Any:
        async def chunks() -> Any:
            yield json.dumps(body).encode() if body is not None else b""

        found = self.router.find(method, path)
        assert found is not None, path
        request = Request(
            self.engine, method, path, found.parameters, Query(list(query.items())), {}, (1, 47), chunks()
        )
        reply = await found.route.handler(request)
        assert isinstance(reply, Reply)
        return reply.body


def test_docker_network(tmp_path: Path) -> None:
    async def test() -> None:
        before = state()
        database = Database(tmp_path / "state.db")
        manager = NetworkManager(NetworkSettings())
        networks = Networks(database, manager, EventBus())
        await networks.setup()
        await manager.restore([])
        docker = Client(networks)
        # as the docker CLI 28 sends it
        blue = {
            "Name": "blue",
            "Driver": "bridge",
            "Scope": "",
            "EnableIPv4": True,
            "IPAM": {"Driver": "default", "Options": {}, "Config": [{"Subnet": "10.77.0.0/24"}]},
            "Internal": False,
            "Attachable": False,
            "Ingress": False,
            "ConfigOnly": False,
            "ConfigFrom": None,
            "Options": {},
            "Labels": {"a": "b"},
        }
        identity = (await docker("POST", "/networks/create", blue))["Id"]
        with pytest.raises(Conflict, match="network with name blue already exists"):
            await docker("POST", "/networks/create", blue)
        with pytest.raises(Forbidden, match="Pool overlaps"):
            await docker("POST", "/networks/create", blue | {"Name": "red"})
        with pytest.raises(Unsupported, match="macvlan"):
            await docker("POST", "/networks/create", blue | {"Name": "red", "Driver": "macvlan"})
        with pytest.raises(InvalidArgument):
            await docker("POST", "/networks/create", {})
        names = {entry["Name"]: entry["Driver"] for entry in await docker("GET", "/networks")}
        assert names == {"blue": "bridge", "bridge": "bridge", "host": "host", "none": "null"}
        custom = await docker("GET", "/networks", filters='{"type": {"custom": true}, "label": ["a=b"]}')
        assert [entry["Name"] for entry in custom] == ["blue"]

        host = Machine(manager)
        one = await host.start("one", PortMapping(80), network="blue")
        seen = await docker("GET", f"/networks/{identity[:12]}")
        assert seen["IPAM"]["Config"] == [{"Subnet": "10.77.0.0/24", "Gateway": "10.77.0.1"}]
        assert seen["Labels"] == {"a": "b"}
        assert seen["Containers"]["oneoneoneone"] == {
            "Name": "one",
            "EndpointID": one.endpoint.id,
            "MacAddress": "02:42:0a:4d:00:02",
            "IPv4Address": "10.77.0.2/24",
            "IPv6Address": "",
        }
        with pytest.raises(Forbidden, match="active endpoints"):
            await docker("DELETE", "/networks/blue")
        with pytest.raises(Forbidden, match="pre-defined"):
            await docker("DELETE", "/networks/bridge")
        with pytest.raises(NotFound, match="network green not found"):
            await docker("GET", "/networks/green")
        assert await docker("POST", "/networks/prune") == {"NetworksDeleted": None}
        await host.stop(one)
        assert await docker("POST", "/networks/prune") == {"NetworksDeleted": ["blue"]}
        bridge = await docker("GET", "/networks/bridge")
        assert bridge["Options"]["com.docker.network.bridge.name"] == "longshore0"
        await manager.close(remove=True)
        database.close()
        assert state() == before

    isolated(test)
