#!/bin/sh
# Installs what the tests drive: Java, Maven, Node with npm, Go, Python with venv, kcat. Nothing else:
# the clients themselves are fetched by the tests, into target/compat-cache.
# With root's rights it installs; otherwise it prints what to install. What is there is left alone.
set -eu

missing=""
need() { # COMMAND PACKAGE...
    command -v "$1" >/dev/null 2>&1 && return
    shift
    missing="$missing $*"
}
need java openjdk-17-jdk-headless
need javac openjdk-17-jdk-headless
need mvn maven
need node nodejs
need npm npm
need go golang-go
need python3 python3
need kcat kcat
need timeout coreutils
if ! python3 -c 'import ensurepip, venv' >/dev/null 2>&1; then
    missing="$missing python3-venv"
fi

if [ -n "$missing" ]; then
    install="apt-get install -y --no-install-recommends$missing"
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        echo "setup: missing tools. Install them, on Debian with: sudo $install" >&2
        exit 1
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $install -qq
fi

# Go fetches the toolchain that a module asks for since 1.21; @platformatic/kafka wants Node 20.19.
version_at_least() { # WHAT VERSION MAJOR MINOR
    major=${2%%.*}
    rest=${2#*.}
    minor=${rest%%.*}
    if [ "$major" -lt "$3" ] || { [ "$major" -eq "$3" ] && [ "$minor" -lt "$4" ]; }; then
        echo "setup: $1 $2 is too old: $3.$4 or newer is needed (a backport, or its own site)" >&2
        exit 1
    fi
}
version_at_least Go "$(go env GOVERSION | tr -d 'a-z')" 1 21
version_at_least Node "$(node --version | tr -d v)" 20 19
echo "setup: all tools are there"
