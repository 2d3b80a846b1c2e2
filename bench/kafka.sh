#!/usr/bin/env bash
# Apache Kafka for comparisons: one KRaft node with its stock settings and heap.
#   kafka.sh install    fetch the broker's jars with Maven into $WORK/libs (needs Maven and a JDK >= 17)
#   kafka.sh version    print the version that is installed
#   kafka.sh run        format $WORK/data if it is new and become the broker (ends on SIGTERM)
#   kafka.sh wipe       remove the data of a broker that does not run
# env: WORK (default: bench-kafka in the temporary directory), KPORT (29292; its controller takes
# the next one), KAFKA_VERSION (4.4.0)
set -euo pipefail
WORK="${WORK:-${TMPDIR:-/tmp}/bench-kafka}"
KPORT="${KPORT:-29292}"
KAFKA_VERSION="${KAFKA_VERSION:-4.4.0}"
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

write_properties() {
  cat > "$WORK/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:$((KPORT + 1))
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:$KPORT,CONTROLLER://127.0.0.1:$((KPORT + 1))
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs=$WORK/data
# As in the server.properties that Kafka ships:
num.network.threads=3
num.io.threads=8
socket.send.buffer.bytes=102400
socket.receive.buffer.bytes=102400
socket.request.max.bytes=104857600
num.partitions=1
num.recovery.threads.per.data.dir=2
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
log.retention.hours=168
log.segment.bytes=1073741824
log.retention.check.interval.ms=300000
# Not stock: deleted topics free their space after a second, not a minute, so that many runs fit.
log.segment.delete.delay.ms=1000
PROPERTIES
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
  if [ ! -f "$WORK/data/meta.properties" ]; then
    # 16 random bytes in base 64, without the characters that an option could be taken for.
    id=$(head -c 16 /dev/urandom | base64 | tr '+/' 'pq' | cut -c1-22)
    java -Xmx256M -cp "$WORK/libs/*" kafka.tools.StorageTool format \
      -t "$id" -c "$WORK/server.properties" --standalone >&2
  fi
  # Heap and collector as kafka-server-start.sh and kafka-run-class.sh set them.
  exec java -Xmx1G -Xms1G -server -XX:+UseG1GC -XX:MaxGCPauseMillis=20 \
    -XX:InitiatingHeapOccupancyPercent=35 -XX:+ExplicitGCInvokesConcurrent \
    -Djava.awt.headless=true -cp "$WORK/libs/*" kafka.Kafka "$WORK/server.properties" >&2
  ;;
wipe)
  rm -rf "$WORK/data"
  ;;
*)
  sed -n '2,9s/^# \{0,1\}//p' "$0"
  exit 2
  ;;
esac
