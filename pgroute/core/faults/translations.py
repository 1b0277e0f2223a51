"""Messages of servers that accept no logins for now, in other languages (PostgreSQL's message catalogs).

psycopg and libpq give no SQLSTATE for a failed connection attempt, so the text decides. During login a server uses the
language of its lc_messages, whatever the client requests. These are the eleven languages of Debian's postgresql-15, not
all that PostgreSQL ever had. A text that is not listed counts as a rejection, as any unknown text does.
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
