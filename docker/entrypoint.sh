#!/usr/bin/env bash
# What a container of the pipeline image runs:
#   master | worker spark://HOST:7077 | history     a part of a standalone cluster
#   driver … | executor                             what Spark on Kubernetes asks for
#   anything else                                   that command: crawlmill …, spark-submit …, spark-class …, python …
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# Numba reads its cache only where it may also write. The root filesystem may be read-only, so /tmp gets a copy (10 MB).
if [[ -n "${NUMBA_CACHE_DIR:-}" && ! -d "$NUMBA_CACHE_DIR" && -d "$here/../kernels" ]]; then
    copy=$(mktemp -d "$NUMBA_CACHE_DIR.XXXXXX")
    cp -R --preserve=timestamps "$here/../kernels/." "$copy"
    mv -T "$copy" "$NUMBA_CACHE_DIR"
fi

case "${1:-}" in
master)
    shift
    exec spark-class org.apache.spark.deploy.master.Master \
        --host "${SPARK_MASTER_HOST:-$(hostname)}" --port "${SPARK_MASTER_PORT:-7077}" \
        --webui-port "${SPARK_MASTER_WEBUI_PORT:-8080}" "$@"
    ;;
worker)
    shift
    # What finished jobs leave in the work folder goes after an hour.
    export SPARK_WORKER_OPTS="-Dspark.worker.cleanup.enabled=true -Dspark.worker.cleanup.appDataTtl=3600 ${SPARK_WORKER_OPTS:-}"
    exec spark-class org.apache.spark.deploy.worker.Worker \
        --webui-port "${SPARK_WORKER_WEBUI_PORT:-8081}" \
        --work-dir "${SPARK_WORKER_DIR:-${SPARK_LOCAL_DIRS:-/tmp}/work}" "$@"
    ;;
history)
    shift
    export SPARK_HISTORY_OPTS="-Dspark.history.fs.logDirectory=${SPARK_EVENTS:-file:///var/lib/spark/events} -Dspark.history.ui.port=${SPARK_HISTORY_PORT:-18080} ${SPARK_HISTORY_OPTS:-}"
    exec spark-class org.apache.spark.deploy.history.HistoryServer "$@"
    ;;
driver)
    shift
    exec spark-submit --conf "spark.driver.bindAddress=$SPARK_DRIVER_BIND_ADDRESS" --deploy-mode client "$@"
    ;;
executor)
    # Spark hands over options of the JVM in numbered variables, since they may hold blanks.
    options=()
    while IFS='=' read -r name _; do
        options+=("${!name}")
    done < <(env | grep -E '^SPARK_JAVA_OPT_[0-9]+=' | sort -t_ -k4n)
    exec "$JAVA_HOME/bin/java" "${options[@]}" "-Xms$SPARK_EXECUTOR_MEMORY" "-Xmx$SPARK_EXECUTOR_MEMORY" \
        -cp "${SPARK_CLASSPATH:+$SPARK_CLASSPATH:}$SPARK_HOME/conf:$SPARK_HOME/jars/*" \
        org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend \
        --driver-url "$SPARK_DRIVER_URL" --executor-id "$SPARK_EXECUTOR_ID" --cores "$SPARK_EXECUTOR_CORES" \
        --app-id "$SPARK_APPLICATION_ID" --hostname "$SPARK_EXECUTOR_POD_IP" \
        --resourceProfileId "${SPARK_RESOURCE_PROFILE_ID:-0}" --podName "${SPARK_EXECUTOR_POD_NAME:-$(hostname)}"
    ;;
*)
    exec "$@"
    ;;
esac
