#!/usr/bin/env bash
# Starts LocalStack as localstack/localstack does: the same variables, the same
# hooks in /etc/localstack/init/{boot,start,ready,shutdown}.d.
set -euo pipefail

# LOCALSTACK_X=… sets X=…, so that LocalStack's settings can be told from those
# of others. Two are LocalStack's own names, and Docker's links make up more.
while IFS= read -r name; do
	case $name in
	LOCALSTACK_HOST | LOCALSTACK_HOSTNAME | LOCALSTACK_[0-9]*) ;;
	*) export "${name#LOCALSTACK_}=${!name}" ;;
	esac
done < <(compgen -e LOCALSTACK_)

mkdir -p /var/lib/localstack/logs
export VIRTUAL_ENV=/opt/code/localstack/.venv PATH=/opt/code/localstack/.venv/bin:$PATH

if [[ -d /etc/localstack/init/boot.d ]]; then
	python3 -m localstack.runtime.init BOOT
fi
exec localstack-supervisor
