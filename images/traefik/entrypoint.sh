#!/bin/sh
# As with upstream's image, arguments and subcommands are Traefik's, and anything
# else is a command.
set -e
case "${1-}" in
    -* | version | healthcheck) set -- traefik "$@" ;;
esac
exec "$@"
