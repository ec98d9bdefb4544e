# Runs one command in a container and leaves what came of it in /lockgate/out: log, exit code, outputs.
# Where all of it is small it is also one line of text in /lockgate/answer, which is quicker to fetch than a directory.
# sh in_container.sh CWD OUTPUT... -- COMMAND...
# It always ends with 0, so that the reports and logs of a failing command are brought back too.
unset LOCKGATE_ATTEMPT
out=/lockgate/out
mkdir -p "$out/files" /work/.home /work/.tmp
cwd=$1
shift
: > "$out/wanted"
while [ "$1" != "--" ]; do
    printf '%s\n' "$1" >> "$out/wanted"
    shift
done
shift
if [ -n "$LOCKGATE_READY" ]; then
    python /lockgate/ready.py $LOCKGATE_READY > "$out/log" 2>&1 || { echo 125 > "$out/code"; : > /lockgate/answer; exit 0; }
fi
unset LOCKGATE_READY
cd "/work/$cwd" || exit 1
"$@" > "$out/log" 2>&1
echo $? > "$out/code"
cd /work || exit 1
while IFS= read -r path; do
    if [ -e "$path" ]; then
        mkdir -p "$out/files/$(dirname "$path")"
        cp -a "$path" "$out/files/$path"
    fi
done < "$out/wanted"
answer=/lockgate/answer
: > "$answer"
if command -v tar > /dev/null && command -v base64 > /dev/null && tar -C "$out" -cf "$answer.tar" . 2> /dev/null; then
    if [ "$(wc -c < "$answer.tar")" -le 262144 ]; then
        base64 < "$answer.tar" > "$answer"
    fi
    rm -f "$answer.tar"
fi
