"""BuildKit's protocol over the builder: `POST /grpc` and `POST /session`."""
