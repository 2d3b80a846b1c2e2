#!/usr/bin/env bash
# Apache Kafka for comparisons: one KRaft node, or one of several, with stock settings and heap.
#   kafka.sh install    fetch the broker's jars with Maven into $WORK/libs (needs Maven and a JDK >= 17)
#   kafka.sh version    print the version that is installed
#   kafka.sh run        format $WORK/data if it is new and become the broker (ends on SIGTERM)
#   kafka.sh wipe       remove the data of a broker that does not run
# env: WORK (default: bench-kafka in the temporary directory), KPORT (29292; its controller takes
# the next one, and each further node the next two), KAFKA_VERSION (4.4.0), KHEAP (1G),
# KNODES (1) how many nodes the cluster has, KNODE (1) which of them this is; its data is data-KNODE
set -euo pipefail
WORK="${WORK:-${TMPDIR:-/tmp}/bench-kafka}"
KPORT="${KPORT:-29292}"
KAFKA_VERSION="${KAFKA_VERSION:-4.4.0}"
KHEAP="${KHEAP:-1G}"
KNODES="${KNODES:-1}"
KNODE="${KNODE:-1}"
DATA="$WORK/data"
FORMAT=(--standalone)
if [ "$KNODES" -gt 1 ]; then
  DATA="$WORK/data-$KNODE"
  FORMAT=()
fi
PROPERTIES="$WORK/server-$KNODE.properties"
JAR="$WORK/libs/kafka_2.13-$KAFKA_VERSION.jar"

need() {
  command -v "$1" >/dev/null || { echo "kafka.sh: $1 was not found: install $2" >&2; exit 1; }
}

write_pom() {
  cat > "$WORK/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>bench</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$KAFKA_VERSION</version>
      <exclusions><exclusion>
        <!-- Not published for every release; only the console tools need it. -->
        <groupId>org.apache.kafka</groupId><artifactId>kafka-tools-api</artifactId>
      </exclusion></exclusions>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-core</artifactId><version>2.25.3</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.3</version>
    </dependency>
  </dependencies>
</project>
POM
}

# Of a cluster: who votes. Internal topics have as many replicas as Kafka gives them by default.
cluster_properties() {
  local node voters=""
  for ((node = 1; node <= KNODES; node++)); do
    voters="$voters${voters:+,}$node@127.0.0.1:$((KPORT + 2 * node - 1))"
  done
  echo "controller.quorum.voters=$voters"
}

# A node that is alone, as in the server.properties that Kafka ships.
single_properties() {
  cat <<PROPERTIES
controller.quorum.bootstrap.servers=127.0.0.1:$((KPORT + 1))
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
PROPERTIES
}

write_properties() {
  local port=$((KPORT + 2 * (KNODE - 1)))
  cat > "$PROPERTIES" <<PROPERTIES
process.roles=broker,controller
node.id=$KNODE
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs=$DATA
# As in the server.properties that Kafka ships:
num.network.threads=3
num.io.threads=8
socket.send.buffer.bytes=102400
socket.receive.buffer.bytes=102400
socket.request.max.bytes=104857600
num.partitions=1
num.recovery.threads.per.data.dir=2
log.retention.hours=168
log.segment.bytes=1073741824
log.retention.check.interval.ms=300000
# Not stock: deleted topics free their space after a second, not a minute, so that many runs fit.
log.segment.delete.delay.ms=1000
PROPERTIES
  if [ "$KNODES" -gt 1 ]; then cluster_properties; else single_properties; fi >> "$PROPERTIES"
}

case "${1:-}" in
install)
  [ -f "$JAR" ] && exit 0
  need mvn "Maven (package maven)"
  mkdir -p "$WORK"
  rm -rf "$WORK/libs"
  write_pom
  mvn -q -B -f "$WORK/pom.xml" dependency:copy-dependencies \
    -DoutputDirectory="$WORK/libs" -DincludeScope=runtime >&2
  ;;
version)
  echo "$KAFKA_VERSION"
  ;;
run)
  need java "a JDK, version 17 or newer"
  [ -f "$JAR" ] || { echo "kafka.sh: no $JAR: run kafka.sh install first" >&2; exit 1; }
  write_properties
  if [ ! -f "$DATA/meta.properties" ]; then
    # 16 random bytes in base 64, without the characters that an option could be taken for.
    id=$(head -c 16 /dev/urandom | base64 | tr '+/' 'pq' | cut -c1-22)
    # Nodes of a cluster have to agree on it.
    [ "$KNODES" -eq 1 ] || id=YmVuY2gtY2x1c3Rlci0xMQ
    java -Xmx256M -cp "$WORK/libs/*" kafka.tools.StorageTool format \
      -t "$id" -c "$PROPERTIES" "${FORMAT[@]}" >&2
  fi
  # Heap and collector as kafka-server-start.sh and kafka-run-class.sh set them.
  exec java "-Xmx$KHEAP" "-Xms$KHEAP" -server -XX:+UseG1GC -XX:MaxGCPauseMillis=20 \
    -XX:InitiatingHeapOccupancyPercent=35 -XX:+ExplicitGCInvokesConcurrent \
    -Djava.awt.headless=true -cp "$WORK/libs/*" kafka.Kafka "$PROPERTIES" >&2
  ;;
wipe)
  rm -rf "$DATA"
  ;;
*)
  sed -n '2,10s/^# \{0,1\}//p' "$0"
  exit 2
  ;;
esac
