"""OCI distribution: the server. Guess the file from the question:

`routes` what a path means, `names` what a client may write, `manifests` what a manifest must be, `ranges` Range and
Content-Range (all pure); `records` what is where (SQLite), `files` the bytes, `store` the two together, `uploads` blobs
on their way in, `collector` garbage; `api_*` the endpoints, `access`, `htpasswd`, `tokens` who may what; `proxy` another
registry behind this one; `notifications`, `metrics`, `health`; `settings` the configuration; `threads` where blocking work is done; `service` one whole
registry from its settings to its sockets.
"""
