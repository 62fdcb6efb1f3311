"""nchan in Debian's nginx, one worker in the foreground; what publishes is the load client, by POST."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.servers.control import announce, listen

CONFIGURATION = """\
load_module /usr/lib/nginx/modules/ngx_nchan_module.so;
daemon off;
master_process off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 12000; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    keepalive_requests 100000000;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location = /pub {{ nchan_publisher; nchan_channel_id news; nchan_message_buffer_length 4000; }}
        location = / {{ nchan_subscriber eventsource; nchan_channel_id news; }}
    }}
}}
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        listener = listen()
        port: int = listener.getsockname()[1]
        listener.close()
        file = Path(folder, "nginx.conf")
        file.write_text(CONFIGURATION.format(folder=folder, port=port))
        errors = Path(folder, "error.log")
        nginx = subprocess.Popen(["/usr/sbin/nginx", "-c", file, "-e", errors])
        try:
            wait_until_it_listens(port)
            announce(port, "/pub", pid=nginx.pid)
            nginx.wait()
        finally:
            nginx.kill()


def wait_until_it_listens(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
        else:
            return
    sys.exit("nginx did not start")


if __name__ == "__main__":
    main()
