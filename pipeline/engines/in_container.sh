# Runs one command in a container and leaves what came of it in /lockgate/out: log, exit code, outputs, and `refused` where it
# had no network. Where all of it is small it is also one line of text in /lockgate/answer, quicker to fetch than a directory.
# Its words: READY CWD OUTPUT... -- NAME=VALUE... COMMAND...   (READY: empty, or seconds and the URLs of services to wait for)
# It always ends with 0, so that the reports and logs of a failing command are brought back too.
out=/lockgate/out
mkdir -p "$out/files" /work/.home /work/.tmp
ready=$1
cwd=$2
shift 2
: > "$out/wanted"
while [ "$1" != "--" ]; do
    printf '%s\n' "$1" >> "$out/wanted"
    shift
done
shift
alone=yes # until another interface than loopback is found
{
    read -r _ && read -r _ && while read -r name _; do
        case $name in lo:*) ;; *) alone=no ;; esac
    done
} < /proc/net/dev || alone=no
if [ -n "$ready" ]; then
    # shellcheck disable=SC2086  # a list of words
    python /lockgate/ready.py $ready > "$out/log" 2>&1 || { echo 125 > "$out/code"; : > /lockgate/answer; exit 0; }
fi
cd "/work/$cwd" || exit 1
env "$@" > "$out/log" 2>&1
echo $? > "$out/code"
rm -f "$out/refused"
if [ $alone = yes ]; then : > "$out/refused"; fi
cd /work || exit 1
while IFS= read -r path; do
    if [ -e "$path" ] || [ -L "$path" ]; then
        mkdir -p "$out/files/$(dirname "$path")"
        real=$(readlink -f "$path")
        case $real in
            /work | /work/*) cp -a "$real" "$out/files/$path" ;;
            *) ln -s "/$real" "$out/files/$path" ;; # it leads elsewhere, which is refused where it is read
        esac
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
