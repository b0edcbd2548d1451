#!/usr/bin/env bash
# The demo on a cluster: a small web made here, put into the S3 store, curated by the workers of SPARK_MASTER, explained.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bucket=${DEMO_BUCKET:-s3://crawlmill}
web=$(mktemp -d)
trap 'rm -rf "$web"' EXIT
say() { printf '\n== %s\n' "$*"; }

say "a small web of 1,600 pages, into $bucket/web"
crawlmill sample "$web"
python "$here/store.py" put "$web" "$bucket/web"

say "spark-submit to $SPARK_MASTER, from $bucket/web to $bucket/out"
# All archives but the one that is damaged on purpose: more of it cannot be read than a run tolerates.
jobs=$(python -c 'import jobs; print(jobs.__path__[0])')
spark-submit --master "$SPARK_MASTER" \
    --driver-java-options "-Dlog4j2.configurationFile=file:$jobs/log4j2.properties" \
    --conf spark.driver.host="${SPARK_DRIVER_HOST:-$(hostname -i | cut -d ' ' -f 1)}" \
    --conf spark.driver.bindAddress=0.0.0.0 \
    --conf spark.eventLog.enabled=true \
    --conf spark.eventLog.dir="${SPARK_EVENTS:-file:///var/lib/spark/events}" \
    "$jobs/run.py" --recipe default --output "$bucket/out" --input "$bucket"/web/*-{0000*,plain,old,text}.*

say "what lies in the store"
python "$here/store.py" list "$bucket/out"

say "what became of the pages"
crawlmill explain "$bucket/out"
printf '\nThe job, stage by stage, is in the history server: http://localhost:18080\n'
