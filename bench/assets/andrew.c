/* The program that the make phase links from the Lua sources: it runs a script that uses the
 * compiler, the collector, strings and tables, and prints a line that the benchmark knows. */
#include <stdio.h>

#include "lua.h"
#include "lauxlib.h"
#include "lualib.h"

static const char script[] =
    "local words = {}\n"
    "for i = 1, 2000 do words[i] = string.format('%05d', (i * 7919) % 10007) end\n"
    "table.sort(words)\n"
    "local sum = 0\n"
    "for i, word in ipairs(words) do sum = (sum * 31 + i * tonumber(word)) % 1000003 end\n"
    "collectgarbage()\n"
    "print(string.format('andrew %s %d', _VERSION, sum))\n";

int main(void) {
  lua_State *state = luaL_newstate();
  if (state == NULL) {
    fprintf(stderr, "no memory for a Lua state\n");
    return 1;
  }
  luaL_openlibs(state);
  if (luaL_dostring(state, script) != LUA_OK) {
    fprintf(stderr, "%s\n", lua_tostring(state, -1));
    lua_close(state);
    return 1;
  }
  lua_close(state);
  return 0;
}
