/*
 * language.c - the table of languages.
 *
 * A kernel is started with its control socket as descriptor KERNEL_CONTROL_FD
 * and its files (asset.h) as KERNEL_ASSETS_FD.
 */
#include "execd/language.h"

#include <string.h>

#include "lib/util.h"

/* Reads the files and runs kernel.py with builtins of its own; says so when this Python is too old for it. */
static const char python_boot[] = "import os,sys\n"
				  "if sys.version_info<(3,8):sys.exit('Python 3.8 or later is needed, this "
				  "is %d.%d'%sys.version_info[:2])\n"
				  "S={}\n"
				  "with os.fdopen(4,'rb') as f:\n"
				  " while True:\n"
				  "  h=f.readline().split()\n"
				  "  if not h:break\n"
				  "  S[h[0].decode()]=f.read(int(h[1])).decode()\n"
				  "B=dict(vars(__import__('builtins')))\n"
				  "exec(compile(S['kernel.py'],'<execd>/kernel.py','exec'),"
				  "{'__name__':'_execd_kernel','__builtins__':B,'SOURCES':S})\n";

static const char *const python_args[] = {"-c", python_boot, NULL};

/* The same for Node; the last argument is the kernel's language. */
static const char node_boot[] =
	"if(parseInt(process.versions.node)<18){console.error('Node 18 or later is needed, this is "
	"'+process.version);"
	"process.exit(1)}{const f=require('fs'),b=f.readFileSync(4),S={};f.closeSync(4);for(let "
	"i=0;i<b.length;){"
	"const e=b.indexOf(10,i),h=b.toString('latin1',i,e).split(' '),n=+h[1];"
	"S[h[0]]=b.toString('utf8',e+1,i=e+1+n)}"
	"require('vm').runInThisContext('(function(SOURCES,require){'+S['kernel.js']+'\\n})',"
	"{filename:'execd:kernel.js'})(S,require)}";

/* A call that an interrupt takes away leaves Node's own count of them behind; it need not be fatal. */
#define NODE_FLAGS "--no-force-async-hooks-checks"

static const char *const javascript_args[] = {NODE_FLAGS, "-e", node_boot, "javascript", NULL};
static const char *const typescript_args[] = {NODE_FLAGS, "-e", node_boot, "typescript", NULL};

/*
 * Compiled from its source as it starts, see kernel.java; with the quick compiler alone a start takes half
 * the processor time. The streams of java.io are put on the control socket, which needs the right to make
 * their descriptor.
 */
static const char *const java_args[] = {
	"-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
	"-Xshare:auto",	    "--add-opens=java.base/java.io=ALL-UNNAMED",
	"--source",	    "17",
	"/proc/self/fd/4",  NULL,
};

/* Compiled beforehand. */
static const char *const java_ready_args[] = {
	"-XX:+UseSerialGC",
	"-XX:TieredStopAtLevel=1",
	"-Xshare:auto",
	"--add-opens=java.base/java.io=ALL-UNNAMED",
	"-cp",
	"/proc/self/fd/4",
	"ExecdKernel",
	NULL,
};

static const char *const no_args[] = {NULL};

static const struct language languages[] = {
	{
		.name = "python",
		.programs = {"python3", "python"},
		.args = python_args,
		.assets = "python",
		.native = "python/native.so",
		.zygote = true,
	},
	{
		.name = "javascript",
		.programs = {"node", "nodejs"},
		.args = javascript_args,
		.assets = "node",
		.spare = true,
	},
	{
		.name = "typescript",
		.programs = {"node", "nodejs"},
		.args = typescript_args,
		.assets = "node",
		.spare = true,
	},
	{
		.name = "bash",
		.programs = {"bash"},
		.shell = true,
	},
	{
		.name = "java",
		.programs = {"java"},
		.args = java_args,
		.assets = "java/kernel.java",
		.ready = "java/classes.jar",
		.ready_args = java_ready_args,
		.spare = true,
		.rooted = true,
	},
	{
		.name = "go",
		.args = no_args,
		.beside = "go",
	},
};

const struct language *language_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(languages); i++)
		if (strcmp(languages[i].name, name) == 0)
			return &languages[i];
	return NULL;
}

void language_names(struct buf *out)
{
	for (size_t i = 0; i < ARRAY_SIZE(languages); i++)
		(void)buf_printf(out, "%s%s", i ? ", " : "", languages[i].name);
}
