#!/bin/sh
# Both processes live and die together: the container ends when either does.
set -eu
python3 /srv/app.py &
exec nginx
