/*
 * The Java kernel: a JShell engine behind proto/kernel-protocol.md. It is launched from this source,
 * because the compiler that this takes is the one that every cell takes as well: what looks like a
 * detour warms up what is needed anyway, and the agent needs no JDK to be built.
 *
 * Threads: "execd-reader" takes frames from the control socket, interrupts too; the first thread runs the
 * cells, compiling each snippet and starting a thread "main" for what it evaluates. A snippet has a thread
 * to itself so that stopping it can harm nothing of ours.
 */
import java.io.DataInputStream;
import java.io.File;
import java.io.FileDescriptor;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.io.PrintStream;
import java.lang.reflect.Constructor;
import java.lang.reflect.Field;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.lang.reflect.Proxy;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.stream.Collectors;
import jdk.jshell.DeclarationSnippet;
import jdk.jshell.Diag;
import jdk.jshell.EvalException;
import jdk.jshell.ExpressionSnippet;
import jdk.jshell.JShell;
import jdk.jshell.JShellException;
import jdk.jshell.Snippet;
import jdk.jshell.SnippetEvent;
import jdk.jshell.SourceCodeAnalysis;
import jdk.jshell.UnresolvedReferenceException;
import jdk.jshell.execution.LocalExecutionControl;
import jdk.jshell.spi.ExecutionControl;
import jdk.jshell.spi.ExecutionControlProvider;
import jdk.jshell.spi.ExecutionEnv;

final class ExecdKernel {
    static final int CONTROL_FD = 3;
    static final int FRAME_MAX = 64 << 20;
    static final int VALUE_MAX = 4 << 20; // characters of a result
    static final int FRAMES_MAX = 64; // stack frames shown of one exception
    static final String[] IMPORTS = { // those of the jshell tool
        "java.io.*", "java.math.*", "java.net.*", "java.nio.file.*", "java.util.*", "java.util.concurrent.*",
        "java.util.function.*", "java.util.prefs.*", "java.util.regex.*", "java.util.stream.*",
    };

    static Wire wire;
    static volatile Session session;

    public static void main(String[] args) throws Exception {
        wire = new Wire(CONTROL_FD);
        System.setOut(new Printer(new Stream("/proc/self/fd/1", FileDescriptor.out)));
        System.setErr(new Printer(new Stream("/proc/self/fd/2", FileDescriptor.err)));
        heedNoSignal();
        Session s = new Session();
        s.warmUp();
        session = s;
        BlockingQueue<Map<String, Object>> cells = new LinkedBlockingQueue<>();
        Thread reader = new Thread(() -> read(cells), "execd-reader");
        reader.setDaemon(true);
        reader.start();
        hello(null);
        while (true) {
            Map<String, Object> request = cells.take();
            s.execute(((Number) request.get("cell")).longValue(), (String) request.get("code"));
        }
    }

    static void hello(String error) throws IOException {
        wire.send('H', Json.object("protocol", 1, "language", "java", "version",
                                   System.getProperty("java.version"), "interrupt", "frame", "error", error));
    }

    static void read(BlockingQueue<Map<String, Object>> cells) {
        try {
            while (true) {
                Frame f = wire.receive();
                if (f == null)
                    Runtime.getRuntime().halt(0);
                Map<String, Object> message = Json.parse(f.payload);
                switch (f.kind) {
                case 'X':
                    cells.add(message);
                    break;
                case 'Y':
                    wire.synced(((Number) message.get("sync")).longValue());
                    break;
                case 'I': // in its place between the cells, where a signal may come late and strike the next one
                    if (session != null)
                        session.interrupt();
                    break;
                case 'C': // a JVM cannot change its directory
                    Object cwd = message.get("cwd");
                    hello(cwd == null || cwd.equals(System.getProperty("user.dir"))
                              ? null : "cannot change its directory to '" + cwd + "'");
                    break;
                default:
                    throw new IOException("a frame of the unknown kind " + f.kind);
                }
            }
        } catch (IOException | RuntimeException e) {
            System.err.println("kernel: " + e);
            Runtime.getRuntime().halt(1);
        }
    }

    /*
     * SIGINT is for what a cell has started; a handler, unlike ignoring it, is not handed on to that. By
     * reflection: the compiler warns of these classes, and its warnings would be the user's first output.
     */
    static void heedNoSignal() throws ReflectiveOperationException {
        Class<?> signal = Class.forName("sun.misc.Signal");
        Class<?> handler = Class.forName("sun.misc.SignalHandler");
        Object proxy = Proxy.newProxyInstance(handler.getClassLoader(), new Class<?>[] {handler},
            (p, m, a) -> m.getReturnType() == int.class ? System.identityHashCode(p)
                : m.getReturnType() == boolean.class ? (Object) (p == a[0]) : null);
        signal.getMethod("handle", signal, handler)
            .invoke(null, signal.getConstructor(String.class).newInstance("INT"), proxy);
    }

    static FileDescriptor descriptor(int fd) throws ReflectiveOperationException {
        Constructor<FileDescriptor> c = FileDescriptor.class.getDeclaredConstructor(int.class);
        c.setAccessible(true);
        return c.newInstance(fd);
    }

    // ---- frames --------------------------------------------------------------------------

    static final class Frame {
        final char kind;
        final byte[] payload;

        Frame(char kind, byte[] payload) {
            this.kind = kind;
            this.payload = payload;
        }
    }

    /* The streams of files serve a socket as well: they read(2) and write(2). */
    static final class Wire {
        private final DataInputStream in;
        private final FileOutputStream out;
        private final Object turn = new Object();
        private long asked, answered;

        Wire(int fd) throws ReflectiveOperationException {
            FileDescriptor d = descriptor(fd);
            in = new DataInputStream(new FileInputStream(d));
            out = new FileOutputStream(d);
        }

        Frame receive() throws IOException {
            int first = in.read();
            if (first < 0)
                return null;
            int size = first << 24 | in.readUnsignedByte() << 16 | in.readUnsignedShort();
            char kind = (char) in.readUnsignedByte();
            if (size < 0 || size > FRAME_MAX)
                throw new IOException("a frame of " + (size & 0xffffffffL) + " bytes");
            byte[] payload = new byte[size];
            in.readFully(payload);
            return new Frame(kind, payload);
        }

        void send(char kind, String json) throws IOException {
            byte[] payload = json.getBytes(StandardCharsets.UTF_8);
            if (payload.length > FRAME_MAX)
                throw new IOException(payload.length + " bytes do not fit into a frame");
            byte[] frame = ByteBuffer.allocate(5 + payload.length).putInt(payload.length).put((byte) kind)
                .put(payload).array();
            synchronized (out) {
                out.write(frame);
            }
        }

        /* Returns when execd has taken all that was written before, or when the cell is to stop. */
        void sync(Session s) throws IOException {
            boolean interrupted = false;
            synchronized (turn) {
                long mine = ++asked;
                send('Y', Json.object("sync", mine));
                while (answered < mine && !(s != null && s.stopping)) {
                    try {
                        turn.wait();
                    } catch (InterruptedException e) {
                        interrupted = true;
                    }
                }
            }
            if (interrupted)
                Thread.currentThread().interrupt();
        }

        void synced(long n) {
            synchronized (turn) {
                answered = Math.max(answered, n);
                turn.notifyAll();
            }
        }

        void wake() {
            synchronized (turn) {
                turn.notifyAll();
            }
        }
    }

    /* System.out and System.err: unbuffered, for a PrintStream hands over whole strings. */
    static final class Stream extends OutputStream {
        private static Stream last;
        private final FileOutputStream raw;

        /* A descriptor of its own: a cell that closes 1 or 2 harms no later one. */
        Stream(String path, FileDescriptor otherwise) {
            FileOutputStream opened;
            try {
                opened = new FileOutputStream(path, true);
            } catch (IOException e) { // no /proc
                opened = new FileOutputStream(otherwise);
            }
            raw = opened;
        }

        @Override public void write(int b) throws IOException {
            write(new byte[] {(byte) b}, 0, 1);
        }

        @Override public void write(byte[] b, int offset, int n) throws IOException {
            Session s = session;
            Engine engine = s == null ? null : s.engine;
            boolean guarded = engine != null && engine.enter();
            try {
                synchronized (Stream.class) {
                    if (last != this && last != null)
                        wire.sync(s);
                    last = this;
                    raw.write(b, offset, n);
                }
            } finally {
                if (guarded)
                    engine.leave();
            }
        }

        /* After a result, or at the end of a cell, all that was written has been taken. */
        static void settled() {
            synchronized (Stream.class) {
                last = null;
            }
        }
    }

    static final class Printer extends PrintStream {
        private final Stream stream;

        Printer(Stream out) {
            super(out, true, StandardCharsets.UTF_8);
            stream = out;
        }

        @Override public void close() {
            flush(); // it is the later cells' as well
        }

        /* What a cell was about to print when it was stopped is not for the next one. */
        static void renew() {
            if (System.out instanceof Printer)
                System.setOut(new Printer(((Printer) System.out).stream));
            if (System.err instanceof Printer)
                System.setErr(new Printer(((Printer) System.err).stream));
        }
    }

    // ---- execution -------------------------------------------------------------------------

    /*
     * Runs a snippet's code on a thread of its own. How that is stopped depends on the JDK: up to 19 by
     * Thread.stop(); where LocalExecutionControl weaves checks into loops and calls, by those; else an
     * interrupted thread has to end by itself.
     */
    static final class Engine extends LocalExecutionControl {
        private final Object lock = new Object();
        private Thread running;
        private boolean guarded, stopPending;
        private boolean prepared;
        private Field cancel; // REPL.$Cancel$.allStop
        private Method stop;
        final Session session;

        Engine(Session session) {
            this.session = session;
        }

        static void nothing() {
        }

        private void prepare() throws Exception {
            prepared = true;
            try { // the superclass makes the class that woven checks refer to when it first runs something
                Method nothing = Engine.class.getDeclaredMethod("nothing");
                nothing.setAccessible(true);
                super.invoke(nothing);
                cancel = findClass("REPL.$Cancel$").getDeclaredField("allStop");
            } catch (ReflectiveOperationException e) {
                cancel = null;
            }
            Thread.setDefaultUncaughtExceptionHandler(null);
            if (cancel == null && Runtime.version().feature() < 20)
                stop = Thread.class.getMethod("stop");
        }

        @Override protected String invoke(Method method) throws Exception {
            Object[] result = new Object[1];
            Throwable[] thrown = new Throwable[1];
            if (!prepared)
                prepare();
            Thread thread = new Thread(() -> {
                try {
                    result[0] = show(method.invoke(null));
                } catch (InvocationTargetException e) {
                    thrown[0] = e.getCause();
                } catch (Throwable e) { // from a toString()
                    thrown[0] = e;
                }
            }, "main");
            thread.setContextClassLoader(method.getDeclaringClass().getClassLoader());
            thread.setUncaughtExceptionHandler((t, e) -> thrown[0] = e);
            synchronized (lock) {
                if (session.stopping)
                    throw new StoppedException();
                running = thread;
            }
            thread.start();
            thread.join();
            synchronized (lock) {
                running = null;
                guarded = stopPending = false;
                if (cancel != null)
                    cancel.set(null, false);
                if (session.stopping)
                    throw new StoppedException();
            }
            if (thrown[0] != null)
                throw new InvocationTargetException(thrown[0]);
            return (String) result[0];
        }

        private static String show(Object value) {
            String s = value instanceof String ? (String) value : valueString(value);
            return s == null || s.length() <= VALUE_MAX ? s : s.substring(0, VALUE_MAX) + "...";
        }

        @Override public void stop() {
            halt();
        }

        void halt() {
            synchronized (lock) {
                Thread t = running;
                if (t == null)
                    return;
                try {
                    if (cancel != null)
                        cancel.set(null, true);
                    t.interrupt();
                    if (stop != null && guarded)
                        stopPending = true;
                    else if (stop != null)
                        stop.invoke(t);
                } catch (ReflectiveOperationException e) {
                    // the interrupt has been delivered, which is all that this JDK can do
                }
            }
            wire.wake();
        }

        /* Between these two the snippet's thread is not stopped: it may stand in the middle of a frame. */
        boolean enter() {
            synchronized (lock) {
                return guarded = Thread.currentThread() == running && stop != null && !guarded;
            }
        }

        void leave() {
            boolean now;
            synchronized (lock) {
                guarded = false;
                now = stopPending;
                stopPending = false;
            }
            if (now)
                throw new ThreadDeath();
        }
    }

    /* The engine of JShell gets an execution control from a provider, on this thread. */
    static final class Provider implements ExecutionControlProvider {
        final Engine engine;

        Provider(Engine engine) {
            this.engine = engine;
        }

        @Override public String name() {
            return "execd";
        }

        @Override public ExecutionControl generate(ExecutionEnv env, Map<String, String> parameters) {
            return engine;
        }
    }

    // ---- cells -----------------------------------------------------------------------------

    static final class CellError extends Exception {
        final String ename;
        final List<String> traceback;

        CellError(String ename, String evalue, List<String> traceback) {
            super(evalue);
            this.ename = ename;
            this.traceback = traceback;
        }
    }

    /* Where a snippet stands in its cell. */
    static final class Origin {
        final long cell;
        final int line; // of its first character
        final String source;

        Origin(long cell, int line, String source) {
            this.cell = cell;
            this.line = line;
            this.source = source;
        }
    }

    static final class Session {
        final Engine engine = new Engine(this);
        volatile boolean stopping;
        private volatile boolean busy;
        private final JShell shell;
        private final SourceCodeAnalysis analysis;
        private final Map<String, Origin> origins = new HashMap<>();

        Session() {
            shell = JShell.builder().executionEngine(new Provider(engine), Map.of()).build();
            String paths = System.getenv("CLASSPATH");
            for (String path : (paths == null ? "" : paths).split(File.pathSeparator))
                for (String one : expand(path))
                    shell.addToClasspath(one);
            // Last: its thread looks at the class path, and one that is being set can be lost by that.
            analysis = shell.sourceCodeAnalysis();
        }

        /* As the JVM reads it: dir/* is each jar in dir. */
        private static List<String> expand(String path) {
            List<String> all = new ArrayList<>();
            String[] names = path.endsWith("/*") ? new File(path.substring(0, path.length() - 1)).list() : null;
            if (names == null && !path.isEmpty())
                all.add(path);
            for (String name : names == null ? new String[0] : names)
                if (name.toLowerCase().endsWith(".jar"))
                    all.add(path.substring(0, path.length() - 1) + name);
            return all;
        }

        /* Loads what a first cell needs: the compiler's own classes are what takes time. */
        void warmUp() throws CellError {
            for (String name : IMPORTS)
                shell.eval("import " + name + ";");
            evaluate(0, "int x = 1; x + 1");
            shell.variables().forEach(shell::drop);
            origins.clear();
            System.gc();
        }

        void interrupt() {
            if (!busy)
                return;
            stopping = true;
            engine.halt();
            try {
                wire.send('I', "{}");
            } catch (IOException e) {
                return; // execd has gone; the reader meets that too
            }
        }

        void execute(long cell, String code) throws IOException {
            String end;
            if (stopping)
                Printer.renew();
            stopping = false;
            busy = true;
            wire.send('S', Json.object("cell", cell));
            try {
                String value = evaluate(cell, code);
                busy = false;
                if (value != null)
                    wire.send('R', "{\"data\":" + Json.object("text/plain", value) + "}");
                end = Json.object("cell", cell, "status", "ok");
            } catch (CellError e) {
                end = Json.object("cell", cell, "status", "error", "ename", e.ename, "evalue", e.getMessage(),
                                  "traceback", e.traceback);
            } catch (Throwable e) { // an error of JShell itself, or no memory
                end = Json.object("cell", cell, "status", "error", "ename", e.getClass().getSimpleName(),
                                  "evalue", String.valueOf(e.getMessage()), "traceback", List.of(e.toString()));
            }
            busy = false;
            System.out.flush();
            System.err.flush();
            Stream.settled();
            wire.send('E', end);
        }

        /* The value of the last snippet, or null. */
        String evaluate(long cell, String code) throws CellError {
            String rest = code, value = null;
            while (true) {
                SourceCodeAnalysis.CompletionInfo info = analysis.analyzeCompletion(rest);
                if (info.completeness() == SourceCodeAnalysis.Completeness.EMPTY)
                    return value;
                String source = info.source() == null ? rest : info.source();
                int at = code.length() - rest.length();
                Origin origin = new Origin(cell, 1 + lines(code, at + blank(rest)), source.substring(blank(source)));
                value = snippet(origin, column(code, at + blank(rest)));
                if (info.remaining().isEmpty() || info.source() == null)
                    return value;
                rest = info.remaining();
            }
        }

        private static int blank(String s) {
            int i = 0;
            while (i < s.length() && Character.isWhitespace(s.charAt(i)))
                i++;
            return i == s.length() ? 0 : i;
        }

        private static int lines(String s, int end) {
            return (int) s.substring(0, end).chars().filter(c -> c == '\n').count();
        }

        private static int column(String s, int at) {
            return at - (s.lastIndexOf('\n', at - 1) + 1);
        }

        private String snippet(Origin origin, int column) throws CellError {
            String value = null;
            if (stopping)
                throw stopped();
            for (SnippetEvent e : shell.eval(origin.source)) {
                if (e.causeSnippet() != null)
                    continue; // another one that this one has changed
                Snippet s = e.snippet();
                origins.put(s.id(), origin);
                if (stopping)
                    throw stopped();
                if (e.status() == Snippet.Status.REJECTED)
                    throw rejected(s, origin, column);
                if (e.exception() != null)
                    throw uncaught(e.exception());
                if (e.status() == Snippet.Status.RECOVERABLE_DEFINED
                    || e.status() == Snippet.Status.RECOVERABLE_NOT_DEFINED)
                    tellUnresolved((DeclarationSnippet) s, e.status());
                value = shown(s) ? e.value() : null;
            }
            return value;
        }

        private static boolean shown(Snippet s) {
            switch (s.subKind()) {
            case TEMP_VAR_EXPRESSION_SUBKIND:
            case VAR_VALUE_SUBKIND:
                return true;
            case OTHER_EXPRESSION_SUBKIND:
                return !((ExpressionSnippet) s).typeName().equals("void");
            default:
                return false;
            }
        }

        private void tellUnresolved(DeclarationSnippet s, Snippet.Status status) {
            String missing = shell.unresolvedDependencies(s).collect(Collectors.joining(", "));
            System.err.println(s.name() + " cannot be " + (status == Snippet.Status.RECOVERABLE_DEFINED
                               ? "used" : "referenced") + " until this is declared: " + missing);
        }

        private CellError stopped() {
            return new CellError("KeyboardInterrupt", "the cell was interrupted", List.of("KeyboardInterrupt"));
        }

        private CellError rejected(Snippet s, Origin origin, int column) {
            List<String> traceback = new ArrayList<>();
            String first = null;
            for (Diag d : shell.diagnostics(s).collect(Collectors.toList())) {
                if (!d.isError())
                    continue;
                String[] message = d.getMessage(Locale.ROOT).split("\\R");
                int at = (int) Math.max(0, Math.min(d.getPosition(), origin.source.length()));
                int line = lines(origin.source, at), col = column(origin.source, at);
                String text = origin.source.split("\n", -1)[line];
                String where = "line " + (origin.line + line) + ", column "
                               + (1 + col + (line == 0 ? column : 0)) + ": ";
                if (first == null)
                    first = where + message[0];
                traceback.add(where + message[0]);
                for (int i = 1; i < message.length; i++)
                    traceback.add(message[i]);
                traceback.add("    " + text);
                traceback.add("    " + text.substring(0, col).replaceAll("[^\t]", " ") + "^");
            }
            return new CellError("CompilationException", first == null ? "the code does not compile" : first,
                                 traceback);
        }

        private CellError uncaught(JShellException e) {
            List<String> traceback = new ArrayList<>();
            String ename = e instanceof UnresolvedReferenceException ? "UnresolvedReferenceException" : "EvalException";
            String evalue = describe(e);
            for (Throwable t = e; t instanceof JShellException; t = t.getCause()) {
                traceback.add((t == e ? "" : "Caused by: ") + describe((JShellException) t));
                StackTraceElement[] stack = t.getStackTrace();
                for (int i = 0; i < stack.length && i < FRAMES_MAX; i++)
                    addFrame(traceback, stack[i]);
                if (stack.length > FRAMES_MAX)
                    traceback.add("    ... " + (stack.length - FRAMES_MAX) + " more");
            }
            return new CellError(ename, evalue, traceback);
        }

        private String describe(JShellException e) {
            if (e instanceof EvalException) {
                String name = ((EvalException) e).getExceptionClassName();
                return e.getMessage() == null ? name : name + ": " + e.getMessage();
            }
            DeclarationSnippet s = ((UnresolvedReferenceException) e).getSnippet();
            return s.name() + " needs what is not declared: "
                + shell.unresolvedDependencies(s).collect(Collectors.joining(", "));
        }

        /* JShell names a snippet's code by the snippet: "#12", line in it. */
        private void addFrame(List<String> traceback, StackTraceElement f) {
            String file = f.getFileName();
            Origin o = file != null && file.startsWith("#") ? origins.get(file.substring(1)) : null;
            if (o == null) {
                traceback.add("    at " + f);
                return;
            }
            String[] source = o.source.split("\n", -1);
            int line = Math.max(1, Math.min(f.getLineNumber(), source.length));
            String method = f.getMethodName().isEmpty() ? "" : (f.getClassName().isEmpty() ? ""
                            : f.getClassName() + ".") + f.getMethodName() + " ";
            traceback.add("    at " + method + "(cell " + o.cell + ", line " + (o.line + line - 1) + ")");
            traceback.add("        " + source[line - 1].strip());
        }
    }

    // ---- JSON ------------------------------------------------------------------------------

    static final class Json {
        private final String s;
        private int i;

        private Json(String s) {
            this.s = s;
        }

        /* Fields whose value is null are left out. */
        static String object(Object... fields) {
            StringBuilder b = new StringBuilder("{");
            for (int n = 0; n < fields.length; n += 2) {
                if (fields[n + 1] == null)
                    continue;
                if (b.length() > 1)
                    b.append(',');
                write(b, fields[n]);
                b.append(':');
                write(b, fields[n + 1]);
            }
            return b.append('}').toString();
        }

        private static void write(StringBuilder b, Object value) {
            if (value instanceof Number) {
                b.append(value);
            } else if (value instanceof List) {
                b.append('[');
                for (Object each : (List<?>) value) {
                    if (b.charAt(b.length() - 1) != '[')
                        b.append(',');
                    write(b, each);
                }
                b.append(']');
            } else {
                quote(b, value.toString());
            }
        }

        /* execd takes no NUL; a lone surrogate becomes "?" with the encoding. */
        private static void quote(StringBuilder b, String text) {
            b.append('"');
            for (int n = 0; n < text.length(); n++) {
                char c = text.charAt(n);
                if (c == '"' || c == '\\')
                    b.append('\\').append(c);
                else if (c == 0)
                    b.append('\ufffd');
                else if (c < ' ')
                    b.append(String.format("\\u%04x", (int) c));
                else
                    b.append(c);
            }
            b.append('"');
        }

        /* One object of strings and whole numbers: execd sends nothing else. */
        static Map<String, Object> parse(byte[] bytes) {
            Json j = new Json(new String(bytes, StandardCharsets.UTF_8));
            Map<String, Object> object = new HashMap<>();
            j.expect('{');
            while (j.peek() != '}') {
                if (!object.isEmpty())
                    j.expect(',');
                String name = j.string();
                j.expect(':');
                object.put(name, j.value());
            }
            return object;
        }

        private char peek() {
            while (Character.isWhitespace(s.charAt(i)))
                i++;
            return s.charAt(i);
        }

        private void expect(char c) {
            if (peek() != c)
                throw new IllegalArgumentException("no '" + c + "' at " + i);
            i++;
        }

        private Object value() {
            char c = peek();
            if (c == '"')
                return string();
            int from = i;
            while (Character.isLetterOrDigit(s.charAt(i)) || s.charAt(i) == '-')
                i++;
            String word = s.substring(from, i);
            return word.equals("null") ? null : (Object) Long.valueOf(word);
        }

        private String string() {
            StringBuilder b = new StringBuilder();
            expect('"');
            while (s.charAt(i) != '"') {
                char c = s.charAt(i++);
                b.append(c == '\\' ? escaped() : c);
            }
            i++;
            return b.toString();
        }

        private char escaped() {
            char c = s.charAt(i++);
            int known = "bfnrt".indexOf(c);
            if (known >= 0)
                return "\b\f\n\r\t".charAt(known);
            if (c != 'u')
                return c;
            i += 4;
            return (char) Integer.parseInt(s.substring(i - 4, i), 16);
        }
    }
}
