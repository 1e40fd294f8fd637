# cmake -D ROOT=... -D OUT=... -P write_commit.cmake: a source file with the commit of the tree, rewritten only when it changes.
cmake_policy(VERSION 3.22)
execute_process(COMMAND git -C ${ROOT} describe --always --dirty --abbrev=12 --exclude=*
                OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
if(failed)
  set(commit "")
endif()
file(CONFIGURE OUTPUT ${OUT} CONTENT "#include \"launch/commit.h\"\n\nconst char* cadre::launch::commit() {\n  return \"@commit@\";\n}\n" @ONLY)
