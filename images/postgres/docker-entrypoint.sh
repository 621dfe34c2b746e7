#!/usr/bin/env bash
# Starts PostgreSQL, having made a database cluster in $PGDATA if there is none.
# It takes the variables and folders of docker.io/library/postgres:
#
#   POSTGRES_PASSWORD          of the superuser; needed, unless nobody is asked for one
#   POSTGRES_USER              the superuser's name (postgres)
#   POSTGRES_DB                a database to create (the superuser's name)
#   POSTGRES_INITDB_ARGS       arguments for initdb
#   POSTGRES_INITDB_WALDIR     where the write-ahead log is, if not in $PGDATA
#   POSTGRES_HOST_AUTH_METHOD  how who connects over the network proves who they are
#   …_FILE                     of the first four: a file that holds the value
#   /docker-entrypoint-initdb.d  *.sh, *.sql, *.sql.gz, *.sql.xz, *.sql.zst: run in
#                              the new cluster, in the order of their names
#
# Other than upstream's, an initialisation that was interrupted, or whose
# scripts failed, begins anew at the next start: no half of one is ever served.
set -Eeuo pipefail
shopt -s nullglob

scripts=/docker-entrypoint-initdb.d

die() {
	printf 'docker-entrypoint: %s\n' "$@" >&2
	exit 1
}

say() { printf 'docker-entrypoint: %s\n' "$*"; }

# The variable $1 from the file that $1_FILE names, or $2 by default.
from_file() {
	local name=$1 file=$1_FILE
	[[ ! (-v $name && -v $file) ]] || die "$name and $file are both set: set one of them"
	if [[ -v $file ]]; then
		[[ -r ${!file} ]] || die "$file: cannot read ${!file}"
		printf -v "$name" %s "$(<"${!file}")"
	elif [[ ! -v $name ]]; then
		printf -v "$name" %s "${2-}"
	fi
	export "${name?}"
	unset "$file"
}

# Whether the arguments start a server, rather than ask postgres for something.
starts_server() {
	local arg
	[[ ${1-} == postgres ]] || return 1
	for arg in "${@:2}"; do
		case $arg in
		-C | --describe-config | -\? | --help | -V | --version) return 1 ;;
		esac
	done
}

# What root has to do before it becomes the user postgres.
prepare_as_root() {
	local dir
	for dir in "$PGDATA" /run/postgresql "${POSTGRES_INITDB_WALDIR-}"; do
		[[ $dir ]] || continue
		mkdir -p "$dir"
		# Only what is not right already: file systems that do not let owners
		# change must not stop a server that could read its files.
		find "$dir" \! -user postgres -exec chown -h postgres:postgres {} + || true
	done
	chmod 700 "$PGDATA" 2>/dev/null || true
	chmod 3775 /run/postgresql 2>/dev/null || true
}

# initdb wants to know the name of who runs it: give one to a user without.
name_the_user() {
	local id lib
	id=$(id -u)
	if getent passwd "$id" >/dev/null; then
		return
	fi
	for lib in /usr/lib/*/libnss_wrapper.so; do
		NSS_WRAPPER_PASSWD=$(mktemp) NSS_WRAPPER_GROUP=$(mktemp)
		printf 'postgres:x:%d:%d:PostgreSQL:%s:/bin/false\n' "$id" "$(id -g)" "$PGDATA" >"$NSS_WRAPPER_PASSWD"
		printf 'postgres:x:%d:\n' "$(id -g)" >"$NSS_WRAPPER_GROUP"
		export LD_PRELOAD=$lib NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP
		return
	done
}

unname_the_user() {
	[[ ! -v NSS_WRAPPER_PASSWD ]] || rm -f "$NSS_WRAPPER_PASSWD" "$NSS_WRAPPER_GROUP"
	unset LD_PRELOAD NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP
}

check_password() {
	if [[ $POSTGRES_HOST_AUTH_METHOD == trust ]]; then
		say "warning: POSTGRES_HOST_AUTH_METHOD=trust lets everybody in who can reach this server"
	elif [[ ! $POSTGRES_PASSWORD ]]; then
		die "the new cluster's superuser has no password" \
			"set one, as in \`-e POSTGRES_PASSWORD=secret\`" \
			"(or POSTGRES_HOST_AUTH_METHOD=trust, to let everybody in who can reach this server)"
	fi
}

# What an interrupted initialisation has left. Only the marks that this script
# makes tell that all else there is of no value: see initialise.
remove_remains() {
	[[ -e $PGDATA/.initdb || -e $PGDATA/.initialising ]] || return 0
	say "the last initialisation did not end: beginning anew"
	find "$PGDATA" -mindepth 1 -maxdepth 1 ! -name lost+found ! -name .initialising -exec rm -rf {} +
	if [[ $POSTGRES_INITDB_WALDIR ]]; then
		find "$POSTGRES_INITDB_WALDIR" -mindepth 1 -delete
	fi
	rm -f "$PGDATA/.initialising"
}

# initdb works in $PGDATA/.initdb, then everything moves up; .initialising stays
# until the last script has run. What has neither is a whole cluster.
initialise() {
	local args=() left
	left=$(find "$PGDATA" -mindepth 1 -maxdepth 1 ! -name lost+found -print -quit)
	[[ ! $left ]] || die "$PGDATA is neither empty nor a database cluster: there is $left"
	if [[ $POSTGRES_INITDB_ARGS ]]; then
		mapfile -t args < <(xargs printf '%s\n' <<<"$POSTGRES_INITDB_ARGS")
	fi
	[[ ! $POSTGRES_INITDB_WALDIR ]] || args+=(--waldir="$POSTGRES_INITDB_WALDIR")
	[[ ! $POSTGRES_PASSWORD ]] || args+=(--pwfile=/dev/fd/3)
	mkdir -m 700 "$PGDATA/.initdb"
	initdb --username="$POSTGRES_USER" --pgdata="$PGDATA/.initdb" --set=listen_addresses='*' "${args[@]}" \
		3< <(printf '%s\n' "$POSTGRES_PASSWORD") | sed '/^Success\./,$d'
	printf '\nhost all all all %s\n' "$POSTGRES_HOST_AUTH_METHOD" >>"$PGDATA/.initdb/pg_hba.conf"
	: >"$PGDATA/.initialising"
	mv "$PGDATA"/.initdb/* "$PGDATA"
	rmdir "$PGDATA/.initdb"
}

sql() { psql --no-psqlrc --set=ON_ERROR_STOP=1 --username="$POSTGRES_USER" --no-password "$@"; }

run_script() {
	say "running $1"
	case $1 in
	*.sh)
		if [[ -x $1 ]]; then
			"$1"
		else
			# shellcheck source=/dev/null
			. "$1"
		fi
		;;
	*.sql) sql --dbname="$POSTGRES_DB" --file="$1" ;;
	*.sql.gz) gunzip -c "$1" | sql --dbname="$POSTGRES_DB" ;;
	*.sql.xz) xz -dc "$1" | sql --dbname="$POSTGRES_DB" ;;
	*.sql.zst) zstd -dc "$1" | sql --dbname="$POSTGRES_DB" ;;
	*) say "$1 is of no kind that is run here" ;;
	esac
}

# Fills the new cluster, by a server that only this container can reach. It
# gets the arguments of the server that comes after it.
fill() {
	local script
	PGPASSWORD=$POSTGRES_PASSWORD pg_ctl --pgdata="$PGDATA" --wait --silent \
		--options="$(printf '%q ' "$@" -c listen_addresses= -p 5432)" start
	export PGHOST='' PGHOSTADDR='' PGPORT=5432 PGPASSWORD=$POSTGRES_PASSWORD
	if [[ $POSTGRES_DB != postgres ]]; then
		sql --dbname=postgres --set=db="$POSTGRES_DB" --quiet <<<'CREATE DATABASE :"db";'
	fi
	for script in "$scripts"/*; do
		run_script "$script"
	done
	unset PGHOST PGHOSTADDR PGPORT PGPASSWORD
	pg_ctl --pgdata="$PGDATA" --mode=fast --wait --silent stop
	rm "$PGDATA/.initialising"
}

main() {
	[[ ${1-} != -* ]] || set -- postgres "$@"
	if ! starts_server "$@"; then
		exec "$@"
	fi
	if [[ $(id -u) == 0 ]]; then
		prepare_as_root
		exec setpriv --reuid=postgres --regid=postgres --init-groups -- "$0" "$@"
	fi
	mkdir -p "$PGDATA"
	chmod 700 "$PGDATA" 2>/dev/null || true
	from_file POSTGRES_PASSWORD
	from_file POSTGRES_USER postgres
	from_file POSTGRES_DB "$POSTGRES_USER"
	from_file POSTGRES_INITDB_ARGS
	POSTGRES_INITDB_WALDIR=${POSTGRES_INITDB_WALDIR-}
	POSTGRES_HOST_AUTH_METHOD=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}

	remove_remains
	if [[ ! -s $PGDATA/PG_VERSION ]]; then
		check_password
		name_the_user
		initialise
		fill "${@:2}"
		unname_the_user
		say "the new cluster is ready"
	fi
	unset POSTGRES_PASSWORD
	exec "$@"
}

main "$@"
