"""Messages about failed logins in other languages: those of servers, and libpq's own (PostgreSQL's message catalogs).

psycopg and libpq give no SQLSTATE for a failed connection attempt, so the text decides. During login a server uses the
language of its lc_messages, whatever the client requests. libpq uses that of the process, if it was built with catalogs
and the program calls setlocale(): the libpq of psycopg's wheels was not.

These are the languages of Debian's postgresql-15 and libpq5 15, not all that PostgreSQL ever had. A text of a server
that is not listed counts as a rejection, one of libpq as a host that is down.
"""

from __future__ import annotations

# 57P03: starting up, shutting down, in recovery mode, not (yet) accepting connections.
STARTING = (
    r"das Datenbanksystem (?:startet|fährt herunter|ist im Wiederherstellungsmodus|nimmt (?:noch )?keine Verbindungen)",
    r"el sistema de bases? de datos está (?:iniciándose|apagándose|en modo de recuperación)",
    r"el sistema de bases? de datos (?:aún )?no está aceptando",
    r"le système de bases? de données? (?:se lance|s'arrête|est en cours de restauration|n'accepte pas)",
    r"il database (?:si sta (?:avviando|spegnendo)|è in modalità di ripristino)",
    r"il sistema di database non accetta",
    r"データベースシステムは(?:起動処理中|シャットダウンしています|リカバリモード|(?:まだ)?接続を受け付けていません)",
    r"მონაცემთა ბაზის სისტემ(?:ის გაშვება|ა ითიშება|ა აღდგენის რეჟიმშია|ა (?:ჯერ )?მიერთებებს არ იღებს)",
    r"데이터베이스 시스템(?:이 (?:새로 가동|중지|자동 복구)|은 (?:아직 )?접속을 허용하지 않습니다)",
    r"система (?:баз данных|БД) (?:запускается|останавливается|в режиме восстановления|(?:ещё )?не принимает)",
    r"databassystemet (?:startar upp|stänger ner|är återställningsläge|tar (?:ännu )?inte emot)",
    r"система бази даних (?:запускається|завершує роботу|у режимі відновлення|(?:ще )?не приймає)",  # noqa: RUF001
    r"数据库系统(?:启动中|停止中|在恢复模式中)",
)

# 57P01 and 57P02 during a login: an administrator's command, a shutdown, a crash of the postmaster or of a process.
ENDED = (
    r"Verbindung wird abgebrochen",
    r"terminando la conexión",
    r"arrêt (?:des connexions suite|de la connexion à cause)",
    r"(?:interruzione|terminazione) della connessione|la connessione è stata terminata",
    r"(?:接続|コネクション)を終了し",
    r"მიერთების შეწყვეტა",
    r"연결을 (?:끝냅니다|종료합니다|중지합니다)",
    r"закрытие подключения",
    r"(?:avslutar|avbryter|stänger) anslutning",
    r"завершення підключення",
    r"中断联接|终止连接",
)

# 53300: too many clients, the rest is reserved, too many for the role or the database.
BUSY = (
    r"schon zu viele Verbindungen|verbleibenden? Verbindungen sind für|zu viele Verbindungen (?:von|für)",
    r"demasiados clientes|las conexiones restantes están reservadas|demasiadas conexiones para",
    r"trop de clients sont déjà|connexions restants sont réservés|trop de connexions pour",
    r"troppi client già|slot di connessione sono riservati|troppe connessioni (?:per|al)",
    r"クライアント数が多すぎます|残りの接続スロットは|(?:から|へ)の接続が多すぎます",
    r"მეტისმეტად ბევრი (?:კლიენტია|კავშირი)|ძალიან ბევრი კავშირი",
    r"최대 동시 접속자 수를|남은 연결 슬롯은|최대 (?:동시 )?접속수를 초과",
    r"уже слишком много клиентов|оставшиеся слоты подключений|слишком много подключений",
    r"för många (?:klienter|uppkopplingar)|resterande anslutningsslottar",
    r"вже забагато клієнтів|слоти підключень, які залишились|занадто багато підключень",
    r"已经有太多的客户|已保留的连接位置|的连接太多了",
)

# libpq: "connection to server at ... failed: " and "connection to server on socket ... failed: ".
PREFIXES = (
    r"Verbindung zum Server [^\n]*?fehlgeschlagen: ",
    r"σύνδεση στον διακομιστή [^\n]*?απέτυχε: ",
    r"falló la conexión al servidor [^\n]*?: ",
    r"la connexion au serveur [^\n]*?a échoué : ",
    r"connessione al server [^\n]*?non riuscita: ",
    r"(?:ソケット)?\"[^\n]*?のサーバーへの接続に失敗しました: ",
    r"(?:სერვერის|სოკეტით) \(\"[^\n]*?მიერთების შეცდომა: ",
    r"\"[^\n]*?접속 할 수 없음: ",
    r"подключиться к серверу [^\n]*?не удалось: ",
    r"anslutning till? server [^\n]*?misslyckades: ",
    r"підключення до серверу [^\n]*?провалено: |помилка при з'єднанні з сервером [^\n]*?: ",
    r"连接到[^\n]*?失败[：:]",  # noqa: RUF001
)

# libpq: certificates, private keys, methods of authentication, channel binding. "SSL" is the same everywhere.
REJECTED = (
    r"[Cc]ertifik|auth?enti|privátního klíče",
    r"[Zz]ertifikat|Authentifizierung|Channel-Binding|Schlüsseldatei",
    r"πιστοπο[ιί]|ταυτότητας|σύνδεση καναλιού|ιδιωτικού κλειδιού",
    r"[Cc]ertificado|autentifica|llave privada",
    r"[Cc]ertificat|authentif|lien de canal|clé privée",
    r"autentica|(?:binding|associazione) d(?:i|el) canale|chiave privata",
    r"証明書|認証|チャネルバインディング|秘密鍵",
    r"სერტიფიკატ|ავთენტიკაცი|არხ(?:ზე|ის) მიბმა|პირადი გასაღების",
    r"인증|[채체]널 바인딩|개인키",
    r"сертификат|аутентифи|привязка каналов|закрытого ключа",
    r"autentiser|kanalbindning|nyckelfil",
    r"сертифікат|автентифік|аутентифік|закритого ключа|зв'язування каналів",
    r"证书|认证|身份验证|通道绑定|私钥",
)

# libpq: "SSL connection has been closed unexpectedly".
CUT = (
    r"neočekávaně ukončeno|unerwartet geschlossen|έκλεισε απροσδόκητα|cerrado inesperadamente|en llamada SSL",
    r"fermée de façon inattendue|chiusa inaspettatamente|意図せずにクローズ|მოულოდნელად დაიხურა|예상치 못하게 끊김",
    r"неожиданно закрыто|oväntat stängts|неочікувано перервано|连接异常关闭",
)
