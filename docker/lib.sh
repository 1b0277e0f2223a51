# Sourced by the scripts here: finds Compose, containers and a base image.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

die() {
    echo "${0##*/}: $*" >&2
    exit 1
}

passfile=$here/passfile

compose() { # Compose as a plugin, or as a program of its own; PGROUTE_PASSWORD is that of all roles
    if [ -z "${PGROUTE_PASSWORD:-}" ]; then read_password; fi
    if docker compose version >/dev/null 2>&1; then docker compose "$@"; else docker-compose "$@"; fi
}

read_password() { # PGROUTE_PASSWORD from the password file, which is made by the first who needs it and stays
    if [ ! -s "$passfile" ]; then
        # A link, in one step: of two who make one at the same time, the first is believed.
        (umask 077 && printf '*:*:*:*:%s\n' "$(od -An -N 16 -tx1 /dev/urandom | tr -d ' \n')" >"$passfile.$$")
        ln "$passfile.$$" "$passfile" 2>/dev/null || [ -s "$passfile" ]
        rm -f "$passfile.$$"
    fi
    PGROUTE_PASSWORD=$(sed -n 's/^\*:\*:\*:\*://p' "$passfile")
    [ -n "$PGROUTE_PASSWORD" ] || die "no password in $passfile: delete it, and the clusters that are up"
    export PGROUTE_PASSWORD
}

project() { # the name of the Compose project of cluster $1
    echo "${PGROUTE_PROJECT:-pgroute-$1}"
}

container() { # the id of the container of service $2 in cluster $1
    local id
    id=$(docker ps -aq --filter "label=com.docker.compose.project=$(project "$1")" \
        --filter "label=com.docker.compose.service=$2")
    [ -n "$id" ] || die "$1 has no $2; is it up? (docker/up $1)"
    echo "$id"
}

ask() { # the answer of node $2 of cluster $1 to the SQL $3; a node that runs may be slow, and is asked again
    local id
    id=$(container "$1" "$2") || return
    for _ in 1 2 3; do
        if timeout 5 docker exec "$id" psql -XAtqc "$3" postgres 2>/dev/null; then return; fi
        # Frozen or ended, it answers nothing, and nothing is expected of it. (Unlike inspect, ps never waits for a container.)
        [ -n "$(docker ps -q --filter "id=$id" --filter status=running)" ] || return 1
        sleep 0.5
    done
    echo "${0##*/}: $2 runs, but does not answer; it is left out" >&2
    return 1
}

find_files() { # puts the -f options of cluster $1 into the array files
    [ -n "$1" ] && [ -e "$here/$1/compose.yaml" ] || die "no cluster $1: there are primary-replica, patroni and pgbouncer"
    files=(-f "$here/$1/compose.yaml")
    if [ "$1" = pgbouncer ]; then files=(-f "$here/primary-replica/compose.yaml" "${files[@]}"); fi
}

# PGROUTE_BASE if it is set; pgroute-base if it was made; Debian's image if it is here or can be pulled; else one made here
base() {
    if [ -n "${PGROUTE_BASE:-}" ]; then
        echo "$PGROUTE_BASE"
    elif docker image inspect pgroute-base >/dev/null 2>&1; then
        echo pgroute-base
    elif docker image inspect debian:bookworm-slim >/dev/null 2>&1 \
        || timeout 60 docker pull -q debian:bookworm-slim >/dev/null 2>&1; then
        echo debian:bookworm-slim
    else
        "$here/make-base" pgroute-base >&2 || exit
        echo pgroute-base
    fi
}
